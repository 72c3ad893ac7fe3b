"""What benchmarks that have several engines up at once need to know of a GPU: whether there is one, and how they share it."""

import os

_ENGINES = 0.9  # of the card's memory, all of them together


def has_card() -> bool:
    """Whether engines will be on a GPU; without torch, for what makes the load stays light."""
    return os.path.exists("/dev/nvidia0")


def share(engines: int) -> None:
    """Gives each of so many engines its part of the card, unless the caller's environment says how much."""
    if has_card():
        os.environ.setdefault("GRAFT_SERVING_GPU_MEMORY_UTILIZATION", f"{_ENGINES / engines:.2f}")
