"""Turns a bearer token into the caller: the operator's key from a file, tenants' keys from the store.

Owns the operator's key. Does not own tenants' keys (`adapter_store.tenants`) nor what a caller may do (`graftwork.rpc.auth`).
"""

import asyncio
import hashlib
import hmac
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from adapter_store.store import AdapterStore
from graftwork.rpc.auth import OPERATOR_PREFIX, Principal, Role, Unauthenticated

_THREADS = 8
_MAX_TOKEN = 200  # characters; a longer one is no key of ours and is not worth hashing


class Keyring:
    """Authenticates operators and tenants.

    Args:
        store: knows the tenants' key hashes.
        operator_key_file: one operator key a line; None accepts no operator. Read again when the file changes, so that a
            key is rotated without a restart.
    """

    def __init__(self, store: AdapterStore, operator_key_file: Path | None) -> None:
        self._store = store
        self._file = operator_key_file
        self._seen: tuple[int, int] = (-1, -1)
        self._hashes: tuple[bytes, ...] = ()
        # Not the loop's own: fetches that a dead store holds up would keep known keys waiting there.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="keyring")

    async def authenticate(self, token: str) -> Principal:
        """Returns the caller.

        Raises:
            Unauthenticated: an operator's key that is not ours, or a token of no known form.
            StoreError: as `Tenants.authenticate` raises it for a tenant's key.
        """
        if len(token) > _MAX_TOKEN:
            raise Unauthenticated("the API key is not valid; ask the operator for a new one")
        if token.startswith(OPERATOR_PREFIX):
            return self._operator(token)
        tenants = self._store.tenants
        record = tenants.recall(token)
        if record is None:
            loop = asyncio.get_running_loop()
            record = await loop.run_in_executor(self._threads, tenants.authenticate, token)
        return Principal(Role.TENANT, record.tenant, _hash(token).hex()[:16])

    def _operator(self, token: str) -> Principal:
        digest = _hash(token)
        # Every key is compared, so that the time taken tells nothing about which one matched.
        matches = [hmac.compare_digest(digest, known) for known in self._operator_hashes()]
        if not any(matches):
            raise Unauthenticated(
                "the operator key is not valid; `graft up` keeps it in operator.key of its home folder"
            )
        return Principal(Role.OPERATOR, None, digest.hex()[:16])

    def _operator_hashes(self) -> tuple[bytes, ...]:
        if self._file is None:
            return ()
        try:
            state = self._file.stat()
        except FileNotFoundError:
            return ()
        seen = (state.st_mtime_ns, state.st_ino)
        if seen != self._seen:
            keys = self._file.read_text().split()
            self._hashes, self._seen = tuple(_hash(key) for key in keys), seen
        return self._hashes


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
