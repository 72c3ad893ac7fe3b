"""The question asked at start: does this store honour create-if-absent?

Owns the probe. Stores that answer 'yes' and overwrite exist (rclone's S3 server ignores the condition, OpenStack
Swift's checks it without atomicity); on one of those, two writers of an alias would both believe that they won.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from adapter_store import layout
from adapter_store.backends.protocol import Backend
from adapter_store.errors import UnsafeBackend

_RACERS = 8
_ROUNDS = 3


def probe(backend: Backend) -> None:
    """Creates objects of its own, alone and in races, and removes them again.

    Raises:
        UnsafeBackend: a second create changed or claimed an object, or a race had not exactly one winner.
    """
    _second_create_changes_nothing(backend)
    for _ in range(_ROUNDS):
        _race_has_one_winner(backend)


def _second_create_changes_nothing(backend: Backend) -> None:
    key = layout.probe_object()
    try:
        first, second = backend.create(key, b"first"), backend.create(key, b"second")
        stored = b"".join(backend.read(key))
        if (first, second, stored) != (True, False, b"first"):
            raise UnsafeBackend(
                "this object store overwrites although it was asked to create only if absent (PUT with "
                "If-None-Match: *); Graftwork would lose alias and tenant records on it. Use AWS S3, MinIO, Garage, SeaweedFS, "
                "R2, Ceph RGW (a bucket without versioning and object lock), or file:// on a local disk"
            )
    finally:
        backend.delete(key)


def _race_has_one_winner(backend: Backend) -> None:
    key = layout.probe_object()
    start = Barrier(_RACERS)

    def run(number: int) -> bool:
        start.wait()
        return backend.create(key, f"{number}".encode())

    try:
        with ThreadPoolExecutor(_RACERS) as pool:
            won = list(pool.map(run, range(_RACERS)))
        stored = b"".join(backend.read(key)).decode()
        if sum(won) != 1 or stored != str(won.index(True)):
            raise UnsafeBackend(
                f"{sum(won)} of {_RACERS} concurrent creators of one object were told that they won: this object "
                "store's create-if-absent is not atomic, and Graftwork would lose alias and tenant records on it. "
                "Use another one"
            )
    finally:
        backend.delete(key)
