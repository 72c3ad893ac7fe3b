"""How long OpenMP's threads stay awake: found in the memory of the one that torch uses, seen by the CPU time that they take."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving_service.engine import vllm_launch
from serving_service.engine.vllm_launch import MANY_SPINS, environment
from serving_service.settings import ServingSettings
from serving_service.vllm_plugin import cpu_steps, spinning
from serving_service.vllm_plugin.cpu_steps import LIGHT_BYTES, LONELY, Threads

SPINNING = """
import time
import sentencepiece  # brings an OpenMP of its own
import torch
from serving_service.vllm_plugin import spinning

torch.set_num_threads(2)
numbers = torch.zeros(1 << 20)
numbers.add_(1)
found = spinning.found()
assert found is not None, "the number has moved: read vllm_plugin/spinning.py"

def spun(few):
    found.set(few=few)
    numbers.add_(1)
    others = time.process_time_ns() - time.thread_time_ns()
    for _ in range(10):
        numbers.add_(1)
        time.sleep(0.05)  # that nobody computes, longer than anybody spins
    return time.process_time_ns() - time.thread_time_ns() - others

print(spun(few=False), spun(few=True), spun(few=False))
"""


def python(code: str, **environ: str) -> str:
    ours = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "LD_PRELOAD"}
    usual = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-c", code], env=usual | environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="libgomp, and two cores")
def test_torchs_threads_stay_awake_for_as_long_as_they_are_told() -> None:
    before, few, after = map(int, python(SPINNING, GOMP_SPINCOUNT=str(MANY_SPINS)).split())
    assert few < min(before, after) / 2


@pytest.mark.parametrize("set_by", [{}, {"GOMP_SPINCOUNT": "300000"}])
def test_a_number_that_is_not_ours_is_left_alone(set_by: dict[str, str]) -> None:
    code = "import torch\nfrom serving_service.vllm_plugin import spinning\ntorch.zeros(1 << 20).add_(1)\nprint(spinning.found())"
    assert python(code, **set_by).strip() == "None"


def test_the_number_is_taken_for_found_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = (ctypes.c_ulonglong * 8)(MANY_SPINS)
    start = ctypes.addressof(memory)
    monkeypatch.setenv("GOMP_SPINCOUNT", str(MANY_SPINS))
    monkeypatch.setattr(spinning, "writable_beside", lambda *_: [(start, start + 24), (start + 24, start + 64)])
    found = spinning.found()
    assert found is not None
    found.set(few=True)
    assert list(memory) == [spinning.FEW_SPINS] + 7 * [0]
    found.set(few=False)
    assert list(memory) == [MANY_SPINS] + 7 * [0]
    memory[7] = MANY_SPINS
    assert spinning.found() is None, "which of the two is not sure"
    memory[0] = memory[7] = 0
    ctypes.c_ulonglong.from_address(start + 28).value = MANY_SPINS
    assert spinning.found() is None, "no such number lies across two places"
    monkeypatch.setattr(spinning, "team", lambda: None)
    memory[0] = MANY_SPINS
    assert spinning.found() is None, "a torch without GNU's OpenMP"


def test_only_what_is_the_librarys_own_is_looked_through() -> None:
    maps = """1000-2000 r-xp 00000000 fe:00 1    /lib/a folder/libgomp.so.1
2000-3000 ---p 00001000 fe:00 1    /lib/a folder/libgomp.so.1
3000-4000 rw-p 00002000 fe:00 1    /lib/a folder/libgomp.so.1
4000-9000 rw-p 00000000 00:00 0
9000-a000 r-xp 00000000 fe:00 2    /lib/other/libgomp.so.1
a000-b000 rw-p 00001000 fe:00 2    /lib/other/libgomp.so.1
b000-c000 rwxp 00005000 fe:00 1    /lib/a folder/libgomp.so.1
c000-d000 rw-p 00006000 fe:00 1    /lib/a folder/libgomp.so.1
"""
    assert list(spinning.writable_beside(0x1800, maps)) == [(0x3000, 0x4000), (0xC000, 0xD000)]
    assert list(spinning.writable_beside(0x9000, maps)) == [(0xA000, 0xB000)]
    assert not list(spinning.writable_beside(0x5000, maps))
    assert not list(spinning.writable_beside(0, maps))


def test_the_environment_says_our_number_unless_the_operator_says_how_threads_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = ServingSettings(store_url="file:///nowhere", operator_key_file=tmp_path / "key", cache_dir=tmp_path)

    def said(gpu: bool = False, **by_operator: str) -> str | None:
        monkeypatch.setattr(vllm_launch, "has_gpu", lambda: gpu)
        monkeypatch.setattr(os, "environ", dict(by_operator))
        environment(settings)
        return os.environ.get("GOMP_SPINCOUNT")

    assert said() == str(MANY_SPINS)
    assert said(GOMP_SPINCOUNT="7") == "7"
    assert said(OMP_WAIT_POLICY="ACTIVE") is None
    assert said(gpu=True) is None


def test_only_while_few_requests_of_a_light_backbone_run_threads_soon_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    class Told:
        def __init__(self) -> None:
            self.few: list[bool] = []

        def set(self, *, few: bool) -> None:
            self.few.append(few)

    told = Told()
    monkeypatch.setattr(spinning, "found", lambda: told)
    before = cpu_steps.torch.get_num_threads()
    try:
        cpu_steps.torch.set_num_threads(2)
        light, heavy = Threads((LIGHT_BYTES // 4, 4)), Threads((LIGHT_BYTES, 4))
        for answers in (1, LONELY, LONELY + 1, 1):
            light.choose(32 * answers, answers)
        light.choose(30, 1, LONELY)
        light.choose(30, 1, LONELY + 1)  # a newcomer's own step: the others are hidden from it
        assert told.few == [True, True, False, True, True, False]
        heavy.choose(32, 1)
        cpu_steps.torch.set_num_threads(1)
        Threads((LIGHT_BYTES // 4, 4)).choose(1, 1)
        assert len(told.few) == 6, "where steps take all threads, the cores are theirs"
    finally:
        cpu_steps.torch.set_num_threads(before)
