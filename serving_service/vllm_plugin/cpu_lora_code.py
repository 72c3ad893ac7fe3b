"""The loops of `cpu_lora_rows`, as they are written: x A.T number by number of the rank, then B's part column by column.

Both go through an adapter in the order that it lies in, once for all rows of it, in parts of as many rows as registers hold sums for. With
one row only memory counts, and a processor fetches by itself what is read in order. With more it computes meanwhile, and is told what
comes next, for it begins anew with each page and follows several places at once less well.

Owns what is computed in which order. Who calls it with what is `cpu_lora_rows`', how code is written and compiled `cpu_code`'s.
"""

import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from serving_service.vllm_plugin.cpu_code import (
    FLOAT,
    INT,
    LANES,
    VECTOR,
    Code,
    compiled,
    everywhere,
    fma,
    share,
    team,
    who,
)

FOUR = 4
"""Of A's rows, or B's, at a time."""
GIVEN = (
    "x",
    "ldx",
    "y",
    "ldy",
    "k",
    "rank",
    "rows",
    "starts",
    "slots",
    "groups",
    "count",
    "slices",
    "parts",
    "h",
    "scale",
)
"""What a call is given, each eight bytes: addresses; x (tokens, ldx), y (tokens, ldy), of which k and the slices' columns are used; the
slots' rank; the step's rows by slots, as `StepRows` has them; slices, as `SLICE` says, and how many; h for x A.T, float32
(slices, count, rank); the bits of a float32."""
SLICE = ("a", "b", "ranks", "n", "at")
"""Of a slice: addresses of A (slots, rank, k), B (slots, n, rank) and the rank that each slot uses; the column of y where it begins."""
_PART = 3
"""Rows at a time, by four of A's rows or of B's: as many sums as sixteen registers hold beside what is multiplied."""
_COLUMNS_AHEAD = 64
"""By which B is prefetched; A by four of its rows."""
_QUARTET = "<4 x float>"


class _Numbers:
    """How numbers of a type are read and written as float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.wide = dtype is torch.float32
        self.kind, self.size = ("float", 4) if self.wide else ("i16", 2)

    def load(self, code: Code, address: str, count: int = LANES) -> str:
        if self.wide:
            return code(f"load <{count} x float>, ptr {address}, align 4")
        bits = code(f"load <{count} x i16>, ptr {address}, align 2")
        whole = code(f"zext <{count} x i16> {bits} to <{count} x i32>")
        shifted = code(f"shl <{count} x i32> {whole}, {_all(count, 16)}")
        return code(f"bitcast <{count} x i32> {shifted} to <{count} x float>")

    def store(self, code: Code, value: str, address: str, count: int) -> None:
        """Bfloat16 is rounded to the nearest, to the even one of two."""
        if self.wide:
            return code.do(f"store <{count} x float> {value}, ptr {address}, align 4")
        whole = f"<{count} x i32>"
        bits = code(f"bitcast <{count} x float> {value} to {whole}")
        last = code(f"and {whole} {code(f'lshr {whole} {bits}, {_all(count, 16)}')}, {_all(count, 1)}")
        more = code(f"add {whole} {last}, {_all(count, 0x7FFF)}")
        rounded = code(f"lshr {whole} {code(f'add {whole} {bits}, {more}')}, {_all(count, 16)}")
        none = code(f"fcmp uno <{count} x float> {value}, {value}")  # no number; rounding could make it infinite
        chosen = code(f"select <{count} x i1> {none}, {whole} {_all(count, 0x7FC0)}, {whole} {rounded}")
        short = code(f"trunc {whole} {chosen} to <{count} x i16>")
        return code.do(f"store <{count} x i16> {short}, ptr {address}, align 2")


def _all(count: int, number: int) -> str:
    return "<" + ", ".join([f"i32 {number}"] * count) + ">"


def _shrink(of: _Numbers, count: int) -> str:
    """Four numbers of the rank for some rows: h[row] = sum(x[row] * a) * scale, A's rows lying one after the other."""
    code = Code(
        f"internal void @shrink{count}(ptr %x, i64 %ldx, ptr %rows, ptr %a, i64 %k, ptr %h, i64 %rank, float %scale) noinline"
    )
    xs = [code.at(of.kind, "%x", code(f"mul i64 {code.load(INT, '%rows', m)}, %ldx")) for m in range(count)]
    four = [code.at(of.kind, "%a", code(f"mul i64 %k, {q}")) for q in range(FOUR)]
    sums = _one_by_one(code, of, xs[0], four) if count == 1 else _side_by_side(code, of, xs, four)
    for m in range(count):
        scaled = code(
            f"fmul {_QUARTET} {_totals(code, sums[m * FOUR : (m + 1) * FOUR])}, {everywhere(code, '%scale', FOUR)}"
        )
        code.do(f"store {_QUARTET} {scaled}, ptr {code.at(FLOAT, '%h', code(f'mul i64 %rank, {m}'))}, align 4")
    return code.end()


def _one_by_one(code: Code, of: _Numbers, x: str, four: list[str]) -> list[str]:
    """One row by four of A's as they lie in memory, which for one row is all that counts."""
    made = []
    for a in four:
        with code.loop(0, "%k", 2 * LANES, [(VECTOR, "zeroinitializer")] * 2) as loop:
            for half, total in enumerate(loop.values):
                here = code(f"add i64 {loop.index}, {half * LANES}")
                one, two = (of.load(code, code.at(of.kind, where, here)) for where in (x, a))
                loop.new.append(fma(code, one, two, total))
        made.append(code(f"fadd {VECTOR} {loop.new[0]}, {loop.new[1]}"))
    return made


def _side_by_side(code: Code, of: _Numbers, xs: list[str], four: list[str]) -> list[str]:
    """Some rows by four of A's at once, so that each number that is loaded is multiplied several times."""
    coming = code.at(of.kind, "%a", code(f"mul i64 %k, {FOUR}"))
    with code.loop(0, "%k", LANES, [(VECTOR, "zeroinitializer")] * (FOUR * len(xs))) as loop:
        # The next four rows from their first number to their last, whatever the order that these are read in: a processor fetches what
        # follows by itself, but of four places at once it is slower, and it begins anew with each page.
        next_lines = code.at(of.kind, coming, code(f"mul i64 {loop.index}, {FOUR}"))
        for line in range(FOUR * LANES * of.size // 64):
            code.prefetch(code.at("i8", next_lines, 64 * line))
        row = [of.load(code, code.at(of.kind, x, loop.index)) for x in xs]
        loop.new = _products(code, of, [code.at(of.kind, a, loop.index) for a in four], row, loop.values)
    return loop.new


def _products(code: Code, of: _Numbers, fours: list[str], row: list[str], sums: list[str]) -> list[str]:
    """Adds each row's vector by each of four; one of the four at a time, or there would not be registers enough."""
    new = list(sums)
    for q, address in enumerate(fours):
        part = of.load(code, address)
        for m, one in enumerate(row):
            to = m * FOUR + q
            new[to] = fma(code, one, part, sums[to])
    return new


def _expand(of: _Numbers, count: int) -> str:
    """Four columns of some rows: y += h B.T, over so much of the rank as is used."""
    code = Code(
        f"internal void @expand{count}(ptr %h, ptr %b, i64 %rank, i64 %used, ptr %y, i64 %ldy, ptr %rows) noinline"
    )
    bs = [code.at(of.kind, "%b", code(f"mul i64 %rank, {q}")) for q in range(FOUR)]
    coming = code.at(of.kind, "%b", code(f"mul i64 %rank, {_COLUMNS_AHEAD}"))
    two = code("mul i64 %rank, 2")
    hs = [code.at(FLOAT, "%h", code(f"mul i64 %rank, {m}")) for m in range(count)]
    with code.loop(0, "%used", LANES, [(VECTOR, "zeroinitializer")] * (FOUR * count)) as loop:
        if count > 1:  # else there is so little to compute that the processor's own fetching is not held up
            # Each second round is in a line that the one before was in: two columns of the four in each.
            odd = code(f"and i64 {code(f'udiv i64 {loop.index}, {LANES}')}, 1")
            line = code(f"add i64 {code(f'and i64 {loop.index}, {-2 * LANES}')}, {code(f'mul i64 {odd}, %rank')}")
            first = code.at(of.kind, coming, line)
            code.prefetch(first)
            code.prefetch(code.at(of.kind, first, two))
        row = [code(f"load {VECTOR}, ptr {code.at(FLOAT, h, loop.index)}, align 4") for h in hs]
        loop.new = _products(code, of, [code.at(of.kind, b, loop.index) for b in bs], row, loop.values)
    for m in range(count):
        y = code.at(of.kind, "%y", code(f"mul i64 {code.load(INT, '%rows', m)}, %ldy"))
        total = _totals(code, loop.new[m * FOUR : (m + 1) * FOUR])
        of.store(code, code(f"fadd {_QUARTET} {of.load(code, y, FOUR)}, {total}"), y, FOUR)
    return code.end()


def _totals(code: Code, sums: list[str]) -> str:
    """The sums of four vectors' lanes, as one of four: each step adds halves of pairs, lane by lane."""
    for low, high in (
        ((0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)),
        ((0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)),
    ):
        pairs = zip(sums[::2], sums[1::2], strict=True)
        sums = [
            code(f"fadd {VECTOR} {_shuffled(code, one, two, low)}, {_shuffled(code, one, two, high)}")
            for one, two in pairs
        ]
    halves = (_shuffled(code, sums[0], "poison", half) for half in ((0, 1, 2, 3), (4, 5, 6, 7)))
    return code(f"fadd {_QUARTET} {', '.join(halves)}")


def _shuffled(code: Code, one: str, two: str, lanes: tuple[int, ...]) -> str:
    mask = ", ".join(f"i32 {lane}" for lane in lanes)
    return code(f"shufflevector {VECTOR} {one}, {VECTOR} {two}, <{len(lanes)} x i32> <{mask}>")


def _share(of: _Numbers) -> str:
    """What one thread of a team does of a call: its part of x A.T, waiting for the others', and its part of the columns."""
    code, they = Code("void @lora(ptr %given)"), team()
    thread, threads = who(code, they)
    given = {name: code.load(INT, "%given", number) for number, name in enumerate(GIVEN)}
    places = ("x", "y", "rows", "starts", "slots", "slices", "h")
    given |= {name: code(f"inttoptr i64 {given[name]} to ptr") for name in places}
    bits = code(f"trunc i64 {given['scale']} to i32")
    given["scale"] = code(f"bitcast i32 {bits} to float")
    for write in (_shrink_part, _expand_part):
        with code.loop(0, given["parts"]) as part, code.loop(0, given["groups"]) as group:
            here = code.at(INT, given["slices"], code(f"mul i64 {part.index}, {len(SLICE)}"))
            own = {name: code.load(INT, here, number) for number, name in enumerate(SLICE)}
            own |= {name: code(f"inttoptr i64 {own[name]} to ptr") for name in ("a", "b", "ranks")}
            own["slot"] = code.load(INT, given["slots"], group.index)
            own["first"] = code.load(INT, given["starts"], group.index)
            own["end"] = code.load(INT, given["starts"], code(f"add i64 {group.index}, 1"))
            used = code.load(INT, own["ranks"], own["slot"])  # what fills its last vector up is zero in the slots
            own["used"] = code(f"and i64 {code(f'add i64 {used}, {LANES - 1}')}, {-LANES}")
            own["begin"] = code(f"mul i64 {part.index}, {given['count']}")  # h lies by slices, rows and the rank
            write(code, of, given | own, (thread, threads))
        if write is _shrink_part and they is not None:
            code.do(f"call void inttoptr (i64 {they.barrier} to ptr)()")
    return code.end()


def _shrink_part(code: Code, of: _Numbers, at: dict[str, str], thread: tuple[str, str]) -> None:
    """A thread's numbers of the rank, for one slot's rows."""
    size = code(f"mul i64 {at['rank']}, {at['k']}")
    a = code.at(of.kind, at["a"], code(f"mul i64 {at['slot']}, {size}"))
    low, high = share(code, code(f"udiv i64 {at['used']}, {FOUR}"), *thread)
    with code.loop(low, high, maybe=True) as block:
        j = code(f"mul i64 {block.index}, {FOUR}")
        four = code.at(of.kind, a, code(f"mul i64 {j}, {at['k']}"))
        for row, count in _parts(code, at["first"], at["end"]):
            h = _of_row(code, at, row)
            code.do(
                f"call void @shrink{count}(ptr {at['x']}, i64 {at['ldx']}, ptr {code.at(INT, at['rows'], row)}, ptr {four}, "
                f"i64 {at['k']}, ptr {code.at(FLOAT, at['h'], code(f'add i64 {h}, {j}'))}, i64 {at['rank']}, float {at['scale']})"
            )


def _expand_part(code: Code, of: _Numbers, at: dict[str, str], thread: tuple[str, str]) -> None:
    """A thread's columns, for one slot's rows."""
    size = code(f"mul i64 {at['n']}, {at['rank']}")
    b = code.at(of.kind, at["b"], code(f"mul i64 {at['slot']}, {size}"))
    some = code(f"icmp ne i64 {at['used']}, 0")
    fours = code(f"udiv i64 {at['n']}, {FOUR}")
    blocks = code(f"select i1 {some}, i64 {fours}, i64 0")
    low, high = share(code, blocks, *thread)
    with code.loop(low, high, maybe=True) as block:
        column = code(f"mul i64 {block.index}, {FOUR}")
        four = code.at(of.kind, b, code(f"mul i64 {column}, {at['rank']}"))
        y = code.at(of.kind, at["y"], code(f"add i64 {column}, {at['at']}"))
        for row, count in _parts(code, at["first"], at["end"]):
            h = _of_row(code, at, row)
            code.do(
                f"call void @expand{count}(ptr {code.at(FLOAT, at['h'], h)}, ptr {four}, i64 {at['rank']}, i64 {at['used']}, "
                f"ptr {y}, i64 {at['ldy']}, ptr {code.at(INT, at['rows'], row)})"
            )


def _of_row(code: Code, at: dict[str, str], row: str) -> str:
    """Where a row's x A.T begins."""
    number = code(f"add i64 {at['begin']}, {row}")
    return code(f"mul i64 {number}, {at['rank']}")


def _parts(code: Code, first: str, end: str) -> Iterator[tuple[str, int]]:
    """Writes what is done, which the caller adds, for so many rows at a time."""
    with code.loop(first, end, _PART) as row:
        left = code(f"sub i64 {end}, {row.index}")
        for count in range(1, _PART + 1):
            compares = "eq" if count < _PART else "uge"
            with code.only_if(code(f"icmp {compares} i64 {left}, {count}")):
                yield row.index, count


@cache
def kernel(dtype: torch.dtype) -> Any:
    """Compiles the loops for a type, part of a second; the engine's start does that.

    Returns:
        A function of the address of `GIVEN` and of how many threads, 0 for all.
    """
    of = _Numbers(dtype)
    shrinks = [_shrink(of, count) for count in range(1, _PART + 1)]
    expands = [_expand(of, count) for count in range(1, _PART + 1)]
    (address,) = compiled([*shrinks, *expands, _share(of)], ["lora"])
    they = team()
    if they is None:
        alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
        return lambda given, threads: alone(given)
    run = they.run
    return lambda given, threads: run(address, given, threads, 0)
