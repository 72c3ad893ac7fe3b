"""A step's memory stays the process's, and some is touched before an adapter needs it: seen by the kernel's count of page faults."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving_service.engine.vllm_launch import environment
from serving_service.settings import ServingSettings
from serving_service.vllm_plugin.reserve import BLOCK_BYTES, Reserve

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_HUGE_PAGES = _SETTING.read_text() if _SETTING.exists() else "[never]"

COUNTED = """
import resource, threading, torch
from serving_service.vllm_plugin import cpu_memory
from serving_service.vllm_plugin.reserve import Reserve

def faults(work):
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

def tensors(count, mib):
    return [torch.empty(mib << 20, dtype=torch.uint8).fill_(1) for _ in range(count)]

def step():
    for _ in range(8):
        tensors(1, 40)
"""

STEPS = """
print(faults(step), cpu_memory.keep_memory(), min(faults(step) for _ in range(5)))
"""

ADAPTERS = """
others = [threading.Thread(target=tensors, args=(1, 1)) for _ in range(4)]  # that had heaps of their own otherwise
for one in others:
    one.start()
assert cpu_memory.keep_memory()
reserve, found = Reserve(64 << 20, quiet_s=0), []
assert reserve.full.wait(60)

def adapter():
    reserve.release(56 << 20)
    found.append(faults(lambda: tensors(56, 1)))

for _ in range(3):
    loading = threading.Thread(target=adapter)
    loading.start()
    loading.join(60)
    assert reserve.full.wait(60), "what was used is made up for"
print(min(found))
"""

GIVEN_BACK = """
import re
assert cpu_memory.keep_memory()

def heap():
    with open("/proc/self/smaps") as maps:
        return int(re.search(r"\\[heap\\].*?Rss: *(\\d+) kB", maps.read(), re.DOTALL)[1]) >> 10

held = tensors(24, 10)
del held[::2], held[-1]  # holes, and the end
before = heap()
cpu_memory.give_back()
print(before, heap(), int(all(bool((one == 1).all()) for one in held)))
"""

LARGE = """
assert cpu_memory.keep_memory()
print(faults(lambda: tensors(2, 40)))
"""


def run(program: str, **more: str) -> list[str]:
    made = subprocess.run(
        [sys.executable, "-c", COUNTED + program],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"MALLOC_ARENA_MAX": "1"} | more,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_a_step_has_used_is_not_asked_of_the_kernel_again() -> None:
    before, kept, after = run(STEPS)  # the best of five, as below
    pages = 8 * 40 * 256
    assert kept == "True"
    assert int(before) > pages / 2, "else there is nothing to be won"
    assert int(after) < pages / 100


@pytest.mark.skipif("[never]" in _HUGE_PAGES, reason="this kernel has no large pages to give")
def test_memory_that_nobody_has_touched_comes_in_large_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"})
    environment(ServingSettings(store_url="file:///nowhere", operator_key_file=tmp_path / "key", cache_dir=tmp_path))
    (faults,) = run(LARGE)
    assert int(faults) < 80 * 256 / 10


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_an_adapter_finds_memory_that_has_been_touched_whichever_thread_brings_it() -> None:
    (faults,) = run(
        ADAPTERS
    )  # of the best of three: now and then something small lies where a tensor would have fitted
    assert int(faults) < 56 * 256 / 20


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_is_free_is_given_back_when_asked_also_between_what_is_in_use() -> None:
    before, after, intact = (int(number) for number in run(GIVEN_BACK))
    assert before - after > 100  # of 120 MiB in holes and 10 at the end
    assert intact


def test_memory_for_adapters_is_not_made_up_for_while_they_follow_one_another_and_one_more_fits() -> None:
    reserve = Reserve(4 * BLOCK_BYTES, quiet_s=3600)
    assert reserve.full.wait(60), "nothing was used yet, so it does not wait"
    reserve.release(2 * BLOCK_BYTES)
    assert reserve.bytes == 2 * BLOCK_BYTES
    reserve.release(BLOCK_BYTES + 1)
    reserve.release(BLOCK_BYTES)  # none is left, and one more would need one
    for _ in range(6000):
        if reserve.bytes:
            break
        reserve.full.wait(0.01)
    assert reserve.bytes == BLOCK_BYTES
    assert not reserve.full.is_set()
