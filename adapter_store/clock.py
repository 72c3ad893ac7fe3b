"""What time it is by the store's own clock.

Everything that depends on an object's age is decided by that clock alone: machines that write, collect or copy may have
wrong ones. On the embedded default the store's clock is the machine's.
"""

from datetime import datetime

from adapter_store import layout
from adapter_store.backends.protocol import Backend
from adapter_store.errors import StoreUnavailable


def store_now(backend: Backend) -> datetime:
    """Returns the time at which the store takes an object in right now, in UTC.

    Writes an object of its own and removes it again.

    Raises:
        StoreUnavailable: the store does not show what it has just taken.
    """
    key = layout.probe_object()
    backend.create(key, b"now")
    try:
        entry = backend.entry(key)
    finally:
        backend.delete(key)
    if entry is None:
        raise StoreUnavailable(f"the store does not show {key}, which it has just accepted; try again")
    return entry.modified
