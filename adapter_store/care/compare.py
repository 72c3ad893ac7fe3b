"""Comparing two stores object by object: what the second lacks, and what it holds that contradicts the first.

Both are listed in key order and read side by side, so that nothing but the listing's own page is held. Owns what counts as equal:
documents by their bytes, blobs and merged weights by their size (their names are digests). Two stores may have merged the same
version, each for itself, with other bytes: both are right. Does not own the copying.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from adapter_store import layout
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.care import reading
from adapter_store.care.inventory import Found, recognised
from adapter_store.care.keys import LOGS, Kind
from adapter_store.care.parallel import each

_PASSING = frozenset({Kind.PROBE, Kind.SWEEP})
"""Of the store that they are in; never copied."""
_BY_SIZE = frozenset({Kind.BLOB, Kind.MERGED})


@dataclass(frozen=True, slots=True)
class Difference:
    """An object of the first store that the second does not have as it should."""

    found: Found
    """In the first store; for `ahead` in the second."""
    contradicts: bool
    """False: it is missing, or has another size though its name is a digest, and may be written."""


def differences(
    first: Backend, second: Backend, parallel: int, seen: Callable[[int], None] = lambda _: None
) -> Iterator[Difference]:
    """Yields what the second store lacks or contradicts, in key order.

    Args:
        first: the store that is to be copied.
        second: the store that is to be like it; may hold more.
        parallel: pairs of documents read at once.
        seen: called with the number of keys compared so far.
    """
    pairs = _ahead_marked(_side_by_side(first, second))
    for number, difference in enumerate(each(partial(_difference, first, second), pairs, parallel), 1):
        seen(number)
        if difference is not None:
            yield difference


@dataclass(frozen=True, slots=True)
class _Pair:
    first: Found | None
    second: Found | None
    ahead: bool = False
    """Only in the second, in a log that the first has as well: the second went on by itself."""


def _difference(first: Backend, second: Backend, pair: _Pair) -> Difference | None:
    if pair.first is None:
        return Difference(pair.second, contradicts=True) if pair.ahead and pair.second else None
    found = pair.first
    if found.key.kind in _PASSING:
        return None
    if pair.second is None:
        return Difference(found, contradicts=False)
    if found.key.kind in (Kind.UNKNOWN, Kind.MERGED_MANIFEST):
        return None
    if found.key.kind in _BY_SIZE:
        return None if found.size == pair.second.size else Difference(found, contradicts=False)
    try:
        if reading.read_bytes(first, found.key) == reading.read_bytes(second, found.key):
            return None
    except ObjectMissing:  # collected in one of them since it was listed; a repeated run will see
        return None
    return Difference(found, contradicts=True)


def _side_by_side(first: Backend, second: Backend) -> Iterator[_Pair]:
    ours, theirs = (recognised(backend.walk(layout.ROOT)) for backend in (first, second))
    one, other = next(ours, None), next(theirs, None)
    while one or other:
        if other is None or (one is not None and one.key.text < other.key.text):
            yield _Pair(one, None)
            one = next(ours, None)
        elif one is None or other.key.text < one.key.text:
            yield _Pair(None, other)
            other = next(theirs, None)
        else:
            yield _Pair(one, other)
            one, other = next(ours, None), next(theirs, None)


def _ahead_marked(pairs: Iterator[_Pair]) -> Iterator[_Pair]:
    """Marks records that only the second store has in a log of both. A log's newest record comes first, so such a record is only
    known for one when an older one is met in the first store."""
    ahead: Found | None = None
    for pair in pairs:
        if pair.first and ahead and pair.first.key.log == ahead.key.log:
            yield _Pair(None, ahead, ahead=True)
            ahead = None
        # Of what jobs hold, garbage collection in the first store may have removed the log.
        elif pair.first is None and pair.second and pair.second.key.kind in LOGS - {Kind.HOLD}:
            ahead = pair.second
        yield pair
