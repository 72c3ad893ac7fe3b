"""Products of few rows on CPUs with AVX2: a packed matrix is read once, at memory's speed, and multiplied by all rows on the way.

A step of decoding has a row for each request, and can be as fast as weights come from memory. oneDNN's kernels for AVX2 are made for many rows:
with two they read 15 GB/s where a core of the machine measured on reads 30, with eight 9 (docs/decisions/0010-what-a-step-takes-on-cpus.md).
Here a block of columns by `CHUNK` is brought into the core's first cache while the one before it is multiplied there by every row.

The code is written in LLVM's language, for what matters is which numbers stay in which registers; llvmlite, which numba brings along,
compiles it. A row's sums are made in the same order however many rows there are.

Owns the kernel and its call. Which products it gets is `cpu_steps`', where a packed matrix lies is told by `packed_weights`.
"""

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch

from serving_service.vllm_plugin.packed_weights import Unexpected, packed_weight, product

MOST_ROWS = 32
"""With more, oneDNN is as fast."""
COLUMNS = (64, 48, 32, 16)
"""Of a block as oneDNN packs them for AVX2, by a matrix's size and the threads that there are: blocks of columns, in each row by row of the
matrix's input."""
CHUNK = 32
"""Rows of a block that are multiplied while the next ones come: at most 8 KiB each, half of a first cache of 32."""
_LANES = 8
log = logging.getLogger(__name__)
_PART = 6
"""Rows at a time: as many sums of two vectors as sixteen registers hold beside what is multiplied."""


def _blocks(rows: int) -> list[int]:
    """Cuts rows into parts of about the same size."""
    parts = -(-rows // _PART)
    return [rows // parts + (part < rows % parts) for part in range(parts)]


def _width(rows: int, columns: int) -> int:
    """Vectors of columns that are summed at a time."""
    return columns // _LANES if rows == 1 else 2


def _multiply(rows: int, columns: int) -> str:
    """A chunk by some rows: adds to y, or begins it.

    Of x (rows, ldx), the chunk (count, columns), y (rows, ldy); `next` is what is prefetched, a few lines with each step.
    """
    width = _width(rows, columns)
    made = [
        f"define internal void @rows{rows}(ptr %x, i64 %ldx, ptr %w, ptr %y, i64 %ldy, i64 %count, i1 %first, ptr %next, i64 %step) noinline {{",
        "entry:",
    ]
    for m in range(1, rows):
        made += [f"  %ox{m} = mul i64 %ldx, {m}", f"  %x{m} = getelementptr float, ptr %x, i64 %ox{m}"]
        made += [f"  %oy{m} = mul i64 %ldy, {m}", f"  %y{m} = getelementptr float, ptr %y, i64 %oy{m}"]
    made += ["  br label %part", "part:", "  %s = phi i64 [0, %entry], [%s1, %done]"]
    made += ["  %line0 = phi ptr [%next, %entry], [%line1, %done]", f"  %at = mul i64 %s, {width * _LANES}"]
    sums = [(m, v) for m in range(rows) for v in range(width)]
    for m, v in sums:
        y = "%y" if m == 0 else f"%y{m}"
        made.append(f"  %py{m}_{v}a = getelementptr float, ptr {y}, i64 %at")
        made.append(f"  %py{m}_{v} = getelementptr float, ptr %py{m}_{v}a, i64 {v * _LANES}")
        made.append(f"  %old{m}_{v} = load <8 x float>, ptr %py{m}_{v}, align 4")
        made.append(f"  %start{m}_{v} = select i1 %first, <8 x float> zeroinitializer, <8 x float> %old{m}_{v}")
    made += ["  %pw0 = getelementptr float, ptr %w, i64 %at", "  br label %loop", "loop:"]
    made.append("  %k = phi i64 [0, %part], [%k1, %loop]")
    made.append("  %pw = phi ptr [%pw0, %part], [%pw1, %loop]")
    made.append("  %line = phi ptr [%line0, %part], [%line1, %loop]")
    made += [f"  %c{m}_{v} = phi <8 x float> [%start{m}_{v}, %part], [%n{m}_{v}, %loop]" for m, v in sums]
    for ahead in range(width // 2):  # as many as bring a whole chunk while one is gone through
        made.append(f"  %l{ahead} = getelementptr i8, ptr %line, i64 {64 * ahead}")
        made.append(f"  call void @llvm.prefetch.p0(ptr %l{ahead}, i32 0, i32 3, i32 1)")
    for v in range(width):
        made.append(f"  %qw{v} = getelementptr float, ptr %pw, i64 {v * _LANES}")
        made.append(f"  %w{v} = load <8 x float>, ptr %qw{v}, align 4")
    for m in range(rows):
        x = "%x" if m == 0 else f"%x{m}"
        made.append(f"  %qx{m} = getelementptr float, ptr {x}, i64 %k")
        made.append(f"  %f{m} = load float, ptr %qx{m}, align 4")
        made.append(f"  %i{m} = insertelement <8 x float> poison, float %f{m}, i32 0")
        made.append(f"  %b{m} = shufflevector <8 x float> %i{m}, <8 x float> poison, <8 x i32> zeroinitializer")
        for v in range(width):
            made.append(
                f"  %n{m}_{v} = call <8 x float> @llvm.fma.v8f32(<8 x float> %b{m}, <8 x float> %w{v}, <8 x float> %c{m}_{v})"
            )
    made += ["  %k1 = add i64 %k, 1", f"  %pw1 = getelementptr float, ptr %pw, i64 {columns}"]
    made.append("  %line1 = getelementptr i8, ptr %line, i64 %step")
    made += ["  %more = icmp ult i64 %k1, %count", "  br i1 %more, label %loop, label %done", "done:"]
    made += [f"  store <8 x float> %n{m}_{v}, ptr %py{m}_{v}, align 4" for m, v in sums]
    made.append("  %s1 = add i64 %s, 1")
    made += [f"  %parts = icmp ult i64 %s1, {columns // (width * _LANES)}", "  br i1 %parts, label %part, label %end"]
    made += ["end:", "  ret void", "}"]
    return "\n".join(made)


def _share(rows: int, columns: int, thread: int, threads: int) -> str:
    """What one thread of a team does of a product: its part of the blocks of columns, chunk by chunk, all rows to each."""
    made = [
        f"define void @product{rows}(ptr %given) {{",
        "entry:",
        f"  %t32 = call i32 inttoptr (i64 {thread} to ptr)()",
        f"  %n32 = call i32 inttoptr (i64 {threads} to ptr)()",
        "  %t = sext i32 %t32 to i64",
        "  %n = sext i32 %n32 to i64",
    ]
    for number, name in enumerate(("ax", "ldx", "aw", "ay", "ldy", "k", "stride", "blocks")):
        made.append(f"  %p{name} = getelementptr i64, ptr %given, i64 {number}")
        made.append(f"  %{name} = load i64, ptr %p{name}")
    made += [f"  %{name} = inttoptr i64 %a{name} to ptr" for name in "xy"]
    made += ["  %slot = inttoptr i64 %aw to ptr", "  %w = load ptr, ptr %slot"]
    made += [
        "  %d0 = mul i64 %blocks, %t", "  %j0 = udiv i64 %d0, %n", "  %t1 = add i64 %t, 1",
        "  %d1 = mul i64 %blocks, %t1", "  %j1 = udiv i64 %d1, %n", "  %none = icmp uge i64 %j0, %j1",
        "  br i1 %none, label %end, label %block",
        "block:", "  %j = phi i64 [%j0, %entry], [%j2, %next]",
        "  %ow = mul i64 %j, %stride", "  %wj = getelementptr float, ptr %w, i64 %ow",
        f"  %oy = mul i64 %j, {columns}", "  %yj = getelementptr float, ptr %y, i64 %oy", "  br label %chunk",
        "chunk:", "  %c = phi i64 [0, %block], [%c1, %chunk]", f"  %c1 = add i64 %c, {CHUNK}",
        "  %left = sub i64 %k, %c", f"  %short = icmp ult i64 %left, {CHUNK}",
        f"  %count = select i1 %short, i64 %left, i64 {CHUNK}", "  %first = icmp eq i64 %c, 0",
        f"  %oc = mul i64 %c, {columns}", "  %wc = getelementptr float, ptr %wj, i64 %oc",
        f"  %wn = getelementptr float, ptr %wc, i64 {CHUNK * columns}", "  %xc = getelementptr float, ptr %x, i64 %c",
    ]  # fmt: skip
    done, parts = 0, _blocks(rows)
    for part, count in enumerate(parts):
        made += [f"  %mx{done} = mul i64 %ldx, {done}", f"  %rx{done} = getelementptr float, ptr %xc, i64 %mx{done}"]
        made += [f"  %my{done} = mul i64 %ldy, {done}", f"  %ry{done} = getelementptr float, ptr %yj, i64 %my{done}"]
        # Each part of the rows brings its part of the next chunk, so that memory is never idle.
        size, step = 4 * CHUNK * columns // len(parts), -(-64 * (_width(count, columns) // 2) // len(parts))
        made.append(f"  %ahead{part} = getelementptr i8, ptr %wn, i64 {part * size // 64 * 64}")
        made.append(
            f"  call void @rows{count}(ptr %rx{done}, i64 %ldx, ptr %wc, ptr %ry{done}, i64 %ldy, i64 %count, i1 %first, "
            f"ptr %ahead{part}, i64 {step})"
        )
        done += count
    made += [
        "  %on = icmp ult i64 %c1, %k", "  br i1 %on, label %chunk, label %next",
        "next:", "  %j2 = add i64 %j, 1", "  %again = icmp ult i64 %j2, %j1", "  br i1 %again, label %block, label %end",
        "end:", "  ret void", "}",
    ]  # fmt: skip
    return "\n".join(made)


@cache
def _library() -> ctypes.CDLL | None:
    """Where torch's own OpenMP is found, behind torch's library: a process may have several (sentencepiece brings one, too), and a second
    team of threads would fight the first for the cores. None where it is not GNU's or like it."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    if not all(hasattr(library, name) for name in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")):
        return None
    library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    library.GOMP_parallel.restype = None
    return library


@cache
def kernels(columns: int = COLUMNS[0]) -> dict[int, int] | None:
    """Compiles the products for blocks of so many columns, part of a second.

    Returns:
        Their addresses by rows; None where they would be slower than oneDNN's or cannot run.
    """
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    library = _library()
    if library is None or not (features.get("avx2") and features.get("fma")) or features.get("avx512f"):
        return None
    thread, threads = (
        ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        for name in ("omp_get_thread_num", "omp_get_num_threads")
    )
    assert thread
    assert threads
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    text = "\n".join(
        [
            "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)",
            "declare <8 x float> @llvm.fma.v8f32(<8 x float>, <8 x float>, <8 x float>)",
            *(_multiply(rows, columns) for rows in range(1, _PART + 1)),
            *(_share(rows, columns, thread, threads) for rows in range(1, MOST_ROWS + 1)),
        ]
    )
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3
    )
    module = llvm.parse_assembly(text)
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    _KEPT.append(engine)
    return {rows: engine.get_function_address(f"product{rows}") for rows in range(1, MOST_ROWS + 1)}


_KEPT: list[Any] = []  # the code lives as long as its engine


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
        library, made = _library(), kernels(columns)
        assert library is not None
        assert made is not None
        self._run, self._kernels = library.GOMP_parallel, made

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
