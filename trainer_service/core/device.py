"""The device that jobs of this service run on: what it is called, how much memory it has, whether it computes in bf16.

Asks NVIDIA's own library (NVML) and the kernel, because this process must not load torch to ask.
"""

import ctypes
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

_NVML = "libnvidia-ml.so.1"
_AMPERE = 8  # compute capability from which on bf16 is there
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, or this machine's processors."""

    kind: Literal["cpu", "cuda"]
    name: str
    memory_bytes: int | None
    """None: not known."""
    bf16: bool


def find_device(kind: Literal["cpu", "cuda"]) -> Device:
    """Returns what can be known of the device; of several GPUs the first, which is where jobs run."""
    if kind == "cpu":
        return Device("cpu", _cpu_name(), _machine_memory(), bf16=False)
    try:
        return _first_gpu(ctypes.CDLL(_NVML))
    except OSError:  # no library, or it answers with an error
        return Device("cuda", "GPU", None, bf16=True)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _machine_memory() -> int:
    """Returns the bytes that this process and its children may have: the container's limit, else the machine's."""
    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return total


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]  # ctypes reads it


def _first_gpu(nvml: ctypes.CDLL) -> Device:
    def call(name: str, *arguments: object) -> None:
        status = getattr(nvml, name)(*arguments)
        if status:
            raise OSError(status, name)

    call("nvmlInit_v2")
    try:
        handle, memory = ctypes.c_void_p(), _Memory()
        major, minor = ctypes.c_int(), ctypes.c_int()
        title = ctypes.create_string_buffer(96)
        call("nvmlDeviceGetHandleByIndex_v2", 0, ctypes.byref(handle))
        call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        call("nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
        call("nvmlDeviceGetName", handle, title, ctypes.c_uint(len(title)))
    finally:
        call("nvmlShutdown")
    return Device("cuda", title.value.decode(errors="replace"), memory.total, bf16=major.value >= _AMPERE)
