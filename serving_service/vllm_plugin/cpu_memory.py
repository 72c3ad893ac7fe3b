"""How a CPU's steps get their memory: the process keeps what they have used, instead of asking the kernel for it each time.

A step's larger tensors live for one product. glibc takes memory of that size from the kernel and gives it back at once, so
that each of them is made of pages that nobody has touched: zeroed, and entered into the page tables, one by one. In a virtual
machine that is the larger part of a step (docs/benchmarks.md). With other allocators (tcmalloc, jemalloc, musl's)
nothing here has an effect.

Two more things `engine.vllm_launch` sets before the process starts. Threads have one heap together (`MALLOC_ARENA_MAX`): with heaps of
their own, what one has freed another could not use again. And memory comes in pages of 2 MiB (`GLIBC_TUNABLES`).

Owns this process's allocator. Does not own what is allocated.
"""

import ctypes
import logging

KEPT_BYTES = 1 << 30
"""Free memory at the heap's end above which glibc gives it back. Steps use what the largest one needs, some hundred MiB."""
OWN_BYTES = 1 << 28
"""Above it a tensor's memory is its own, and given back with it: no step's is, but the key/value cache and weights are."""
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_GROW_BYTES = 1 << 24  # by which the heap grows at least: a call of the kernel for each tensor otherwise

log = logging.getLogger(__name__)


def keep_memory() -> bool:
    """Makes glibc keep it; after the model is loaded, for what loading needs shall go back.

    Returns:
        Whether this process has glibc's allocator, and it does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_MMAP_THRESHOLD, OWN_BYTES), (_TRIM_THRESHOLD, KEPT_BYTES), (_TOP_PAD, _GROW_BYTES))
    refused = [name for name, value in wanted if not mallopt(name, value)]
    if refused:
        log.warning("glibc would not keep a step's memory (mallopt %s): steps are slower", refused)
    return not refused


def give_back() -> None:
    """Gives what is free back to the kernel, as far as whole pages are; what steps need of it they touch again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
