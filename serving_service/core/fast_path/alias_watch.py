"""Looks at what the store says of what is merged, also while no request names it.

Without it the engine of an alias that nobody asks for any more would stay after its route was taken back or it was deleted, a
new version would be merged only once the first request has come, and a version that an operator promoted would keep its engine
after it was deleted. Owns that look. Does not own what follows (`fast_path`).
"""

import asyncio
from collections.abc import Awaitable, Callable

from graftwork.errors import ErrorCode, GraftError
from serving_service.core.fast_path.fast_path import FastPath
from serving_service.core.routing import Found

SECONDS = 10.0
"""Between two looks; each asks the store once for each alias."""

Find = Callable[[str, str], Awaitable[Found | None]]
"""Tenant and model text to what it means; `Router.look`."""


async def watch_aliases(fast_path: FastPath, find: Find, seconds: float = SECONDS) -> None:
    """Looks for ever."""
    while True:
        await asyncio.sleep(seconds)
        await look(fast_path, find)
        fast_path.review()


async def look(fast_path: FastPath, find: Find) -> None:
    """Looks once. What cannot be looked up now stays as it is; an alias that is gone wants nothing any more, and a version that
    is gone ends."""
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
    for manifest in fast_path.asked:
        try:
            await find(manifest.tenant, f"{manifest.adapter}@{manifest.version}")
        except GraftError as error:
            if error.code is ErrorCode.NOT_FOUND:
                fast_path.deleted(manifest)
