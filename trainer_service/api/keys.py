"""API keys to callers: tenants' keys from the store, the operator's from a file."""

import asyncio
import hmac
from pathlib import Path

from adapter_store import AdapterStore
from graftwork.rpc.auth import Principal, Role, Unauthenticated


class Keys:
    """Authenticates the calls of one service.

    Args:
        store: knows the tenants' keys, by hash.
        operator_key_file: holds the operator's key; read at every call that is no tenant's, so that it can be replaced.
    """

    def __init__(self, store: AdapterStore, operator_key_file: Path) -> None:
        self._store, self._operator_key_file = store, operator_key_file

    async def authenticate(self, token: str) -> Principal:
        """Returns the caller; raises Unauthenticated or the store's InvalidKey."""
        if token.startswith("gw_"):
            record = await asyncio.to_thread(self._store.tenants.authenticate, token)
            return Principal(Role.TENANT, record.tenant, f"tenant:{record.tenant}")
        words = (await asyncio.to_thread(self._operator_key_file.read_text)).split()
        # An empty file must let nobody in, least of all an empty token.
        if not words or not hmac.compare_digest(words[0].encode(), token.encode()):
            raise Unauthenticated("the API key is not known; ask for a new one")
        return Principal(Role.OPERATOR, None, "operator")
