"""A step's memory stays the process's, and some is touched before an adapter needs it: seen by the kernel's count of page faults."""

import os
import subprocess
import sys

import pytest

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
print(faults(step), cpu_memory.keep_memory(), faults(step) and faults(step))
"""

ADAPTERS = """
others = [threading.Thread(target=tensors, args=(1, 1)) for _ in range(4)]  # that had heaps of their own otherwise
for one in others:
    one.start()
assert cpu_memory.keep_memory()
reserve, found = Reserve(64 << 20), []
assert reserve.full.wait(60)

def adapter():
    reserve.release(56 << 20)
    found.append(faults(lambda: tensors(56, 1)))

loading = threading.Thread(target=adapter)
loading.start()
loading.join(60)
assert reserve.full.wait(60), "what was used is made up for"
print(*found)
"""


def run(program: str) -> list[str]:
    made = subprocess.run(
        [sys.executable, "-c", COUNTED + program],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_a_step_has_used_is_not_asked_of_the_kernel_again() -> None:
    before, kept, after = run(STEPS)
    pages = 8 * 40 * 256
    assert kept == "True"
    assert int(before) > pages / 2, "else there is nothing to be won"
    assert int(after) < pages / 100


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_an_adapter_finds_memory_that_has_been_touched_whichever_thread_brings_it() -> None:
    (faults,) = run(ADAPTERS)
    assert int(faults) < 56 * 256 / 20
