"""What a tenant may call by name: the base and its own adapters with their aliases.

Owns the short memory in front of the store's listing. Does not own what a name means for a request (`routing`).
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from adapter_store.manifest import AdapterRecord
from adapter_store.paging import Page
from serving_service.core.routing import DEFAULT_ALIAS

MAX_ADAPTERS = 1000
"""Listed for one tenant; those beyond them are served all the same."""
_CACHED = 1024  # tenants whose list is remembered


class Listing(Protocol):
    """The one call of the store that the catalogue needs; sync and thread-safe."""

    def list(self, tenant: str, page_size: int = 0, page_token: str = "") -> Page[AdapterRecord]: ...


@dataclass(frozen=True, slots=True)
class Model:
    """One name that can be called.

    Attributes:
        name: `adapter` for the default alias, else `adapter:alias`; the base's own for the base.
        version: digest where it points now, the heaviest of a split; empty for the base.
        since: when it was pointed there; None for the base.
    """

    name: str
    version: str
    since: datetime | None


class Catalogue:
    """Lists.

    Args:
        store: the tenants' adapters.
        seconds: for how long a list is reused.
        clock: seconds, monotonic.
    """

    def __init__(self, store: Listing, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._seconds, self._clock = store, seconds, clock
        self._lists: OrderedDict[str, tuple[float, tuple[Model, ...]]] = OrderedDict()

    async def of(self, tenant: str) -> tuple[Model, ...]:
        """Returns a tenant's models in the order of their names, without the base.

        Raises:
            NotFound: there is no such tenant. StoreUnavailable: the store does not answer.
        """
        known = self._lists.get(tenant)
        if known and known[0] > self._clock():
            return known[1]
        page = await asyncio.to_thread(self._store.list, tenant, MAX_ADAPTERS)
        models = tuple(
            Model(_name(record.adapter, alias.alias), alias.version, alias.at)
            for record in page.items
            for alias in sorted(record.aliases, key=lambda alias: (alias.alias != DEFAULT_ALIAS, alias.alias))
        )
        self._lists[tenant] = (self._clock() + self._seconds, models)
        self._lists.move_to_end(tenant)
        while len(self._lists) > _CACHED:
            self._lists.popitem(last=False)
        return models


def _name(adapter: str, alias: str) -> str:
    return adapter if alias == DEFAULT_ALIAS else f"{adapter}:{alias}"
