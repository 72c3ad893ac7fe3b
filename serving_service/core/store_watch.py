"""Asks the store now and then, so that readiness knows of an outage, and of its end, without any traffic.

Owns the rhythm. Does not own what is known of the store (`adapter_store.outage`).
"""

import asyncio
from typing import Protocol

import structlog

from adapter_store.errors import StoreError
from adapter_store.outage import Outage

log = structlog.get_logger(__name__)


class Pingable(Protocol):
    """The part of a store that this needs; sync and thread-safe."""

    outage: Outage

    def ping(self) -> None:
        """Returns when the store has answered the smallest question; raises StoreError when it has not."""
        ...


async def watch_store(store: Pingable, seconds: float) -> None:
    """Asks until cancelled, and logs when the store goes and when it comes back, whoever noticed.

    Args:
        store: who is asked.
        seconds: between two questions.
    """
    reachable = True
    while True:
        try:
            await asyncio.to_thread(_ask, store)
        except StoreError as error:
            log.debug("the store did not answer", cause=str(error))
        state = store.outage.state
        if state.reachable is not reachable:
            reachable = state.reachable
            if reachable:
                log.info("the store answers again")
            else:
                log.warning("the store is away; what is cached goes on being served", cause=state.cause)
        await asyncio.sleep(seconds)


def _ask(store: Pingable) -> None:
    with store.outage.question():
        store.ping()
