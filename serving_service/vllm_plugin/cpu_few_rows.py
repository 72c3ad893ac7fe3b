"""Products of few rows on CPUs with AVX2: a packed matrix is read once, at memory's speed, and multiplied by all rows on the way.

A step of decoding has a row for each request, and can be as fast as weights come from memory. oneDNN's kernels for AVX2 are made for many rows:
with two they read 15 GB/s where a core of the machine measured on reads 30, with eight 9 (docs/decisions/0010-what-a-step-takes-on-cpus.md).
Here a block of columns by `CHUNK` is brought into the core's first cache while the one before it is multiplied there by every row.

A row's sums are made in the same order however many rows there are.

Owns the kernel and its call. Which products it gets is `cpu_steps`', where a packed matrix lies is told by `packed_weights`, how code is
written and compiled is `cpu_code`'s.
"""

import ctypes
import logging
from functools import cache

import torch

from serving_service.vllm_plugin.cpu_code import (
    FLOAT,
    INT,
    LANES,
    VECTOR,
    Code,
    Team,
    compiled,
    everywhere,
    fma,
    share,
    team,
    who,
)
from serving_service.vllm_plugin.packed_weights import Unexpected, packed_weight, product

MOST_ROWS = 32
"""With more, oneDNN is as fast."""
COLUMNS = (64, 48, 32, 16)
"""Of a block as oneDNN packs them for AVX2, by a matrix's size and the threads that there are: blocks of columns, in each row by row of the
matrix's input."""
CHUNK = 32
"""Rows of a block that are multiplied while the next ones come: at most 8 KiB each, half of a first cache of 32."""
log = logging.getLogger(__name__)
_PART = 6
"""Rows at a time: as many sums of two vectors as sixteen registers hold beside what is multiplied."""
_ONE_BY_ONE = 3
"""Up to so many rows are multiplied one at a time, all columns of a block at once: the first reads it as it lies in memory, which a processor
fetches ahead by itself, and faster than it is told to; the others find it in the first cache."""


def _blocks(rows: int) -> list[int]:
    """Cuts rows into parts of about the same size."""
    parts = rows if rows <= _ONE_BY_ONE else -(-rows // _PART)
    return [rows // parts + (part < rows % parts) for part in range(parts)]


def _width(rows: int, columns: int) -> int:
    """Vectors of columns that are summed at a time."""
    return columns // LANES if rows == 1 else 2


def _multiply(rows: int, columns: int) -> str:
    """A chunk by some rows: adds to y, or begins it.

    Of x (rows, ldx), the chunk (count, columns), y (rows, ldy); `next` is what is prefetched, a few lines with each step.
    """
    width = _width(rows, columns)
    code = Code(
        f"internal void @rows{rows}(ptr %x, i64 %ldx, ptr %w, ptr %y, i64 %ldy, i64 %count, i1 %first, ptr %next, i64 %step) noinline"
    )
    xs, ys = (
        [code.at(FLOAT, base, code(f"mul i64 {ld}, {m}")) for m in range(rows)]
        for base, ld in (("%x", "%ldx"), ("%y", "%ldy"))
    )
    with code.loop(0, str(columns // (width * LANES)), carried=[("ptr", "%next")]) as part:
        at = code(f"mul i64 {part.index}, {width * LANES}")
        sums = [code.at(FLOAT, code.at(FLOAT, y, at), v * LANES) for y in ys for v in range(width)]
        old = [code(f"load {VECTOR}, ptr {place}, align 4") for place in sums]
        begin = [code(f"select i1 %first, {VECTOR} zeroinitializer, {VECTOR} {one}") for one in old]
        w = code.at(FLOAT, "%w", at)
        carried = [*((VECTOR, one) for one in begin), ("ptr", part.values[0])]
        with code.loop(0, "%count", carried=carried) as loop:
            line = loop.values[-1]
            # As many as bring a whole chunk while one is gone through.
            for ahead in range(width // 2 if rows > 1 else 0):
                code.prefetch(code.at("i8", line, 64 * ahead), near=3)
            row = code.at(FLOAT, w, code(f"mul i64 {loop.index}, {columns}"))
            weights = [code(f"load {VECTOR}, ptr {code.at(FLOAT, row, v * LANES)}, align 4") for v in range(width)]
            for m, x in enumerate(xs):
                number = everywhere(code, code.load(FLOAT, x, loop.index))
                loop.new += [fma(code, number, weight, loop.values[m * width + v]) for v, weight in enumerate(weights)]
            loop.new.append(code.at("i8", line, "%step"))
        for place, total in zip(sums, loop.new, strict=False):
            code.do(f"store {VECTOR} {total}, ptr {place}, align 4")
        part.new = loop.new[-1:]
    return code.end()


def _share(rows: int, columns: int, they: Team) -> str:
    """What one thread of a team does of a product: its part of the blocks of columns, chunk by chunk, all rows to each."""
    code = Code(f"void @product{rows}(ptr %given)")
    thread, threads = who(code, they)
    x, ldx, slot, y, ldy, k, stride, blocks = (code.load(INT, "%given", number) for number in range(8))
    x, slot, y = (code(f"inttoptr i64 {address} to ptr") for address in (x, slot, y))
    matrix = code.load("ptr", slot)
    low, high = share(code, blocks, thread, threads)
    with code.loop(low, high, maybe=True) as block:
        of_w = code.at(FLOAT, matrix, code(f"mul i64 {block.index}, {stride}"))
        of_y = code.at(FLOAT, y, code(f"mul i64 {block.index}, {columns}"))
        with code.loop(0, k, CHUNK) as chunk:
            left = code(f"sub i64 {k}, {chunk.index}")
            short = code(f"icmp ult i64 {left}, {CHUNK}")
            count = code(f"select i1 {short}, i64 {left}, i64 {CHUNK}")
            first = code(f"icmp eq i64 {chunk.index}, 0")
            w = code.at(FLOAT, of_w, code(f"mul i64 {chunk.index}, {columns}"))
            of_x = code.at(FLOAT, x, chunk.index)
            done, parts = 0, _blocks(rows)
            for part, many in enumerate(parts):
                row_x = code.at(FLOAT, of_x, code(f"mul i64 {ldx}, {done}"))
                row_y = code.at(FLOAT, of_y, code(f"mul i64 {ldy}, {done}"))
                # Each part of the rows brings its part of the next chunk, so that memory is never idle.
                size, step = 4 * CHUNK * columns // len(parts), -(-64 * (_width(many, columns) // 2) // len(parts))
                coming = code.at("i8", w, 4 * CHUNK * columns + part * size // 64 * 64)
                code.do(
                    f"call void @rows{many}(ptr {row_x}, i64 {ldx}, ptr {w}, ptr {row_y}, i64 {ldy}, i64 {count}, i1 {first}, "
                    f"ptr {coming}, i64 {step})"
                )
                done += many
    return code.end()


@cache
def kernels(columns: int = COLUMNS[0]) -> dict[int, int] | None:
    """Compiles the products for blocks of so many columns, part of a second.

    Returns:
        Their addresses by rows; None where they would be slower than oneDNN's or cannot run.
    """
    import llvmlite.binding as llvm

    features, they = llvm.get_host_cpu_features(), team()
    if they is None or not (features.get("avx2") and features.get("fma")) or features.get("avx512f"):
        return None
    every = range(1, MOST_ROWS + 1)
    functions = [_multiply(rows, columns) for rows in sorted({part for rows in every for part in _blocks(rows)})]
    functions += [_share(rows, columns, they) for rows in every]
    return dict(zip(every, compiled(functions, [f"product{rows}" for rows in every]), strict=True))


class FewRows:
    """Products with one packed matrix.

    Args:
        slot: address of the pointer to the matrix, (blocks, stride / columns, columns) numbers of float32; followed with each product, for the matrix may
            be laid elsewhere (`PackedWeight.move`).
        k, n: its rows and columns; n a multiple of `columns`.
        stride: numbers of a block.
        columns: of a block.
    """

    def __init__(self, slot: int, k: int, n: int, stride: int, columns: int) -> None:
        self._given = slot, k, stride, n, n // columns
        they, made = team(), kernels(columns)
        assert they is not None
        assert made is not None
        self._run, self._kernels = they.run, made

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Writes x (rows, k) by the matrix into y (rows, n), contiguous; both float32, x with its numbers of a row side by side."""
        slot, k, stride, n, blocks = self._given
        given = (ctypes.c_int64 * 8)(x.data_ptr(), x.stride(0), slot, y.data_ptr(), n, k, stride, blocks)
        self._run(self._kernels[len(x)], ctypes.addressof(given), 0, 0)  # with as many threads as torch has


def multiply_few(layer: torch.nn.Module) -> bool:
    """Gives a layer's handler of vLLM's what multiplies few rows by its packed matrix, as `few_rows`.

    Returns:
        Whether it has; not where the matrix is not one of these, or products do not agree with oneDNN's.
    """
    try:
        weight = packed_weight(layer)
    except Unexpected as error:
        log.info("products of few rows stay oneDNN's: %s", error)
        return False
    if weight is None or weight.dtype is not torch.float32 or kernels() is None:
        return False
    handler = weight.handler
    x = torch.randn(7, handler.k, generator=torch.Generator().manual_seed(0))
    ours, theirs = torch.empty(7, handler.n), product(handler, x)
    for columns in COLUMNS:  # the object says only how large it is; the product says how it lies there
        if not handler.n % columns:
            made = FewRows(weight.slot, handler.k, handler.n, weight.size // 4 // (handler.n // columns), columns)
            made(x, ours)
            if torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max())):
                handler.few_rows = made
                return True
    log.info("products of few rows stay oneDNN's: %d by %d is packed in another way", handler.k, handler.n)
    return False
