"""Looks at the aliases that want something merged also while no request names them.

Without it the engine of an alias that nobody asks for any more would stay after its route was taken back or it was deleted, and a
new version would be merged only once the first request has come. Owns that look. Does not own what follows (`fast_path`).
"""

import asyncio
from collections.abc import Awaitable, Callable

from graftwork.errors import ErrorCode, GraftError
from serving_service.core.fast_path.fast_path import FastPath
from serving_service.core.routing import Found

SECONDS = 10.0
"""Between two looks; each asks the store once for each alias."""

Find = Callable[[str, str], Awaitable[Found | None]]
"""Tenant and model text to what it means; `Router.find`."""


async def watch_aliases(fast_path: FastPath, find: Find, seconds: float = SECONDS) -> None:
    """Looks for ever."""
    while True:
        await asyncio.sleep(seconds)
        await look(fast_path, find)


async def look(fast_path: FastPath, find: Find) -> None:
    """Looks once. An alias that cannot be looked up now stays as it is; one that is gone wants nothing any more."""
    for alias in fast_path.aliases:
        tenant, adapter, name = alias
        try:
            found = await find(tenant, f"{adapter}:{name}")
        except GraftError as error:
            if error.code is ErrorCode.NOT_FOUND:
                fast_path.forget(alias)
            continue
        if found is not None:
            fast_path.note(alias, found.manifest, found.targets)
