"""How many adapters a step may have, where the operator does not say: as many slots as their memory is meant to take.

Owns the arithmetic only. A slot has room for an adapter of the fleet's largest rank on every linear layer that adapters may
change, whatever the adapter in it has.
"""

from collections.abc import Mapping

Shape = tuple[int, int]

_BYTES = 4  # a number, at most: a CPU without native bfloat16 serves in float32
_FEWEST = 4  # even where that is more memory: with one slot, tenants wait for each other
_NEVER = ("embed_tokens", "lm_head")  # no adapter that the store lets in changes these


def slots_for(
    modules: Mapping[str, tuple[Shape | None, ...]], *, names: tuple[str, ...], rank: int, budget: int, most: int
) -> int:
    """Returns a number of slots.

    Args:
        modules: the backbone's matrices by the end of their path, (out, in); None is one of unknown shape (stored packed), with
            which nothing can be reckoned: the fewest.
        names: layers that adapters may change; empty is all.
        rank: the largest.
        budget: bytes for all slots.
        most: no more than this: requests in one batch.
    """
    shapes = [
        shape
        for path, found in modules.items()
        for shape in found
        if (path.rpartition(".")[2] in names if names else path.rpartition(".")[2] not in _NEVER)
    ]
    each = sum(sum(shape) * rank * _BYTES for shape in shapes if shape)
    return min(most, _FEWEST if not each or None in shapes else max(_FEWEST, budget // each))
