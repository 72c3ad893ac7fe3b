"""Who goes when a merged version needs room.

Owns the choice: versions that were replaced first, then the idle one that is asked for least. A version that an operator asked
for may push out any idle one; one that an alias wants only what is asked for less than half as often, or two that are used
alike would push each other out for ever. Does not own the arithmetic (`budget`).
"""

import asyncio

import structlog

from serving_service.core.errors import NoRoomForMerged
from serving_service.core.fast_path.budget import MergedBudget
from serving_service.core.fast_path.life import Life, State

_WORTH = 2.0  # how much more often than the one that it pushes out

log = structlog.get_logger(__name__)


class MergedRoom:
    """Gives room.

    Args:
        budget: how much there is.
        lives: all versions.
    """

    def __init__(self, budget: MergedBudget, lives: dict[tuple[str, str, str], Life]) -> None:
        self._budget, self._lives = budget, lives
        self._freed = asyncio.Event()

    def check(self, life: Life) -> None:
        """Raises NoRoomForMerged when there will be none, as far as is known by now; moves nobody."""
        self._victims(life)

    async def take(self, life: Life) -> None:
        """Takes `life.bytes`; who must go for it is sent away, and has gone when this returns.

        Raises:
            NoRoomForMerged: those who may go would not be enough.
        """
        while not self._budget.take(life.key, life.bytes):
            freed = self._freed
            for victim in self._victims(life):
                self._push_out(victim, life)
            await freed.wait()

    def give_back(self, life: Life) -> None:
        """Gives an engine's room back, once the engine has stopped."""
        self._budget.give_back(life.key)
        freed, self._freed = self._freed, asyncio.Event()
        freed.set()
        for other in self._lives.values():
            if other.no_room:
                other.poke.set()

    def _victims(self, life: Life) -> list[Life]:
        leaving = {key for key, other in self._lives.items() if other.state is State.DRAINING or other.leave.is_set()}
        ranked = sorted(
            (other for other in self._lives.values() if other is not life and self._may_push_out(life, other)),
            key=lambda other: (other.wanted, other.asked, other.demand.value()),
        )
        keys = self._budget.victims(life.bytes, leaving, [other.key for other in ranked])
        if keys is None:
            raise NoRoomForMerged(
                f"no room: {life.bytes or 'an unknown number of'} bytes wanted, {self._budget.used} of {self._budget.size} taken "
                f"by {len(self._budget)} of {self._budget.count} merged engines that are in use or asked for more; raise "
                "GRAFT_SERVING_MERGED_BUDGET_BYTES or GRAFT_SERVING_MAX_MERGED, or demote one"
            )
        return [self._lives[key] for key in keys]

    def _may_push_out(self, life: Life, other: Life) -> bool:
        if other.state is not State.SERVING or other.leave.is_set():
            return False
        if not other.wanted:  # only kept until what replaced it serves
            return True
        if other.users:
            return False
        return life.asked or (not other.asked and other.demand.value() * _WORTH < life.demand.value())

    def _push_out(self, victim: Life, life: Life) -> None:
        log.info("merged engine makes room", adapter=victim.name, makes_room_for=life.name)
        victim.asked = False  # an operator may ask again; left to itself it would push the other one out in turn
        victim.why = f"made room for {life.name}"
        victim.send_away()
