"""Loops that matter, written in LLVM's language: how they are put together, compiled, and run by torch's own threads.

Where it matters which numbers stay in which registers and what is prefetched when, a compiler's choice is not left to chance: the code is
made here line by line, and llvmlite, which numba brings along, makes a processor's code of it.

Owns the writing of loops, the compiler and torch's OpenMP. What is computed is `cpu_few_rows`' and `cpu_lora_code`'s.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

LANES = 8
"""Numbers of a vector of float32; wider than the processor's own, LLVM makes several of it."""
INT, FLOAT, VECTOR = "i64", "float", f"<{LANES} x float>"
DECLARED = f"""
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
declare {VECTOR} @llvm.fma.v8f32({VECTOR}, {VECTOR}, {VECTOR})
"""


@dataclass(slots=True)
class Loop:
    """A loop that is being written.

    Attributes:
        index: its number.
        values: what it carries from one round to the next.
        new: what they are after this round, to be set before the loop's end; after it, what they were in the last round.
    """

    index: str
    values: list[str]
    new: list[str] = field(default_factory=list)


class Code:
    """A function that is being written. Names are LLVM's: `%7`, `%x`; what is called gives the name of its result."""

    def __init__(self, head: str) -> None:
        self._lines, self._block, self._count = [f"define {head} {{", "entry:"], "entry", 0

    def __call__(self, expression: str) -> str:
        name = self._name()
        self.do(f"{name} = {expression}")
        return name

    def do(self, line: str) -> None:
        self._lines.append(f"  {line}")

    def at(self, kind: str, base: str, index: str | int) -> str:
        """The address of a number of an array."""
        return self(f"getelementptr {kind}, ptr {base}, i64 {index}")

    def load(self, kind: str, base: str, index: str | int = 0) -> str:
        """A number of an array."""
        where = self.at(kind, base, index) if index else base
        return self(f"load {kind}, ptr {where}, align {4 if kind == FLOAT else 8}")

    def prefetch(self, address: str, near: int = 2) -> None:
        """Brings a line into the second cache (3: the first)."""
        self.do(f"call void @llvm.prefetch.p0(ptr {address}, i32 0, i32 {near}, i32 1)")

    @contextmanager
    def loop(
        self,
        start: str | int,
        stop: str,
        step: int = 1,
        carried: Sequence[tuple[str, str]] = (),
        *,
        maybe: bool = False,
    ) -> Iterator[Loop]:
        """Writes a loop from `start` to before `stop`.

        Args:
            carried: types and first values.
            maybe: it may have no round at all; without, it has one in any case. Not for loops that carry something.
        """
        assert not (maybe and carried)
        before, name = self._block, self._name()[1:]
        if maybe:
            some = self(f"icmp ult i64 {start}, {stop}")
            self.do(f"br i1 {some}, label %{name}, label %{name}.end")
        else:
            self.do(f"br label %{name}")
        self._begin(name)
        made = Loop(self._name(), [self._name() for _ in carried])
        first = len(self._lines)
        self._lines += [""] * (1 + len(carried))  # once it is known what comes round
        yield made
        following = self(f"add i64 {made.index}, {step}")
        rounds = [("i64", start, made.index, following)]
        rounds += [(kind, one, old, new) for (kind, one), old, new in zip(carried, made.values, made.new, strict=True)]
        for number, (kind, one, old, new) in enumerate(rounds):
            self._lines[first + number] = f"  {old} = phi {kind} [{one}, %{before}], [{new}, %{self._block}]"
        again = self(f"icmp ult i64 {following}, {stop}")
        self.do(f"br i1 {again}, label %{name}, label %{name}.end")
        self._begin(f"{name}.end")

    @contextmanager
    def only_if(self, condition: str) -> Iterator[None]:
        """Writes what is done only then."""
        name = self._name()[1:]
        self.do(f"br i1 {condition}, label %{name}, label %{name}.end")
        self._begin(name)
        yield
        self.do(f"br label %{name}.end")
        self._begin(f"{name}.end")

    def end(self) -> str:
        """The whole function."""
        return "\n".join([*self._lines, "  ret void", "}"])

    def _name(self) -> str:
        self._count += 1
        return f"%n{self._count}"

    def _begin(self, block: str) -> None:
        self._lines.append(f"{block}:")
        self._block = block


@dataclass(frozen=True, slots=True)
class Team:
    """Torch's own OpenMP.

    Attributes:
        run: GOMP_parallel: of a function's address, its argument, how many threads (0: torch's number) and 0.
        thread, threads, barrier: addresses of the functions that tell a thread its number and the team's, and that wait for all.
    """

    run: Any
    thread: int
    threads: int
    barrier: int


@cache
def team() -> Team | None:
    """Finds it behind torch's library: a process may have several (sentencepiece brings one, too), and a second team of threads would
    fight the first for the cores.

    Returns:
        None where it is not GNU's or like it.
    """
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    names = ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier")
    if not all(hasattr(library, name) for name in ("GOMP_parallel", *names)):
        return None
    run = library.GOMP_parallel
    run.argtypes, run.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    thread, threads, barrier = (ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names)
    return Team(run, thread, threads, barrier)


def who(code: Code, they: Team | None) -> tuple[str, str]:
    """Writes which thread of how many this is."""
    if they is None:
        return "0", "1"
    calls = (code(f"call i32 inttoptr (i64 {address} to ptr)()") for address in (they.thread, they.threads))
    thread, threads = (code(f"sext i32 {number} to i64") for number in calls)
    return thread, threads


def share(code: Code, count: str, thread: str, threads: str) -> tuple[str, str]:
    """Writes from where to where a thread's part of so many goes."""
    following = code(f"add i64 {thread}, 1")
    low, high = (code(f"udiv i64 {code(f'mul i64 {count}, {number}')}, {threads}") for number in (thread, following))
    return low, high


def everywhere(code: Code, number: str, count: int = LANES) -> str:
    """Writes a vector of one float32 throughout."""
    first = code(f"insertelement <{count} x float> poison, float {number}, i32 0")
    return code(f"shufflevector <{count} x float> {first}, <{count} x float> poison, <{count} x i32> zeroinitializer")


def fma(code: Code, one: str, two: str, to: str) -> str:
    """Writes one times two plus `to`, of vectors."""
    return code(f"call {VECTOR} @llvm.fma.v8f32({VECTOR} {one}, {VECTOR} {two}, {VECTOR} {to})")


def compiled(functions: Sequence[str], names: Sequence[str]) -> list[int]:
    """Compiles functions for this processor.

    Returns:
        The addresses of those named; valid as long as the process.
    """
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    module = llvm.parse_assembly("\n".join([DECLARED, *functions]))
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    _KEPT.append(engine)
    return [engine.get_function_address(name) for name in names]


_KEPT: list[Any] = []  # the code lives as long as its engine
