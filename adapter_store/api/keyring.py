"""Turns a bearer token into the caller: operators' and viewers' keys from a file, tenants' keys from the store.

Owns when the file is read. Does not own its form (`graftwork.operator_keys`), tenants' keys (`adapter_store.tenants`) nor what a
caller may do (`graftwork.rpc.auth`, `graftwork.rpc.access`).
"""

import asyncio
import hmac
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from adapter_store.store import AdapterStore
from graftwork.operator_keys import OperatorKey, digest_of, parse
from graftwork.rpc.auth import OPERATOR_PREFIX, Principal, Role, Unauthenticated

_THREADS = 8
_MAX_TOKEN = 200  # characters; a longer one is no key of ours and is not worth hashing

log = structlog.get_logger(__name__)


class Keyring:
    """Authenticates operators and tenants.

    Args:
        store: knows the tenants' key hashes.
        operator_key_file: keys of operators and viewers; None accepts none. Read again when the file changes, so that a key
            is rotated without a restart.
        changed: is told of the keys before and after, when the file has changed while this runs.
    """

    def __init__(
        self,
        store: AdapterStore,
        operator_key_file: Path | None,
        changed: Callable[[Sequence[OperatorKey], Sequence[OperatorKey]], None] = lambda before, after: None,
    ) -> None:
        self._store = store
        self._file = operator_key_file
        self._changed = changed
        self._seen: tuple[int, int] | None = None
        self._keys: tuple[OperatorKey, ...] = ()
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
        return Principal(Role.TENANT, record.tenant, digest_of(token).hex()[:16])

    def _operator(self, token: str) -> Principal:
        digest, found = digest_of(token), None
        # Every key is compared, so that the time taken tells nothing about which one matched.
        for key in self._known():
            if hmac.compare_digest(digest, key.digest):
                found = key
        if found is None:
            raise Unauthenticated(
                "the operator key is not valid; `graft up` keeps it in operator.key of its home folder"
            )
        return Principal(found.role, None, found.id, found.name)

    def _known(self) -> tuple[OperatorKey, ...]:
        if self._file is None:
            return ()
        try:
            state = self._file.stat()
            seen = (state.st_mtime_ns, state.st_ino)
            if seen != self._seen:
                self._take(self._file.read_text(), first=self._seen is None)
                self._seen = seen
        except FileNotFoundError:  # taken away: so is everybody's access
            return ()
        except OSError as error:
            log.error("the operators' key file cannot be read; no operator is let in", cause=str(error))
            return ()
        return self._keys

    def _take(self, text: str, *, first: bool) -> None:
        found, wrong = parse(text)
        for number in wrong:
            log.error("a line of the operators' key file is no key and is left out", file=str(self._file), line=number)
        before, self._keys = self._keys, tuple(found)
        if not first:
            self._changed(before, self._keys)
