"""Who goes when a merged version needs room.

Owns the choice: versions that were replaced first, then the idle one that is asked for least. A version that an operator asked
for may push out any idle one; one that an alias wants only what is asked for less than half as often, or two that are used
alike would push each other out for ever. Both push out what was promoted by its traffic alone, in use or on its way: its engine
takes no more requests and ends with the last one. That itself pushes out nothing that is wanted. Does not own the arithmetic
(`budget`), nor whose traffic is worth more (`auto`).
"""

import asyncio
from collections.abc import Callable

import structlog

from serving_service.core.errors import NoRoomForMerged
from serving_service.core.fast_path.budget import MergedBudget
from serving_service.core.fast_path.life import Life, State, Wish

_WORTH = 2.0  # how much more often than the one that it pushes out

log = structlog.get_logger(__name__)


class MergedRoom:
    """Gives room.

    Args:
        budget: how much there is.
        lives: all versions.
        pushed_out: is told of what had to go.
    """

    def __init__(
        self, budget: MergedBudget, lives: dict[tuple[str, str, str], Life], pushed_out: Callable[[Life], None]
    ) -> None:
        self._budget, self._lives, self._pushed_out = budget, lives, pushed_out
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
            key=lambda other: (other.wish, other.demand.value()),
        )
        keys = self._budget.victims(life.bytes, leaving, [other.key for other in ranked])
        if keys is None:
            raise NoRoomForMerged(
                f"no room: {life.bytes or 'an unknown number of'} bytes wanted, {self._budget.used} of {self._budget.size} taken "
                f"by {len(self._budget)} of {self._budget.count} merged engines that are in use or asked for more; raise "
                "GRAFT_SERVING_MERGED_BUDGET_BYTES or GRAFT_SERVING_MAX_MERGED, or demote one"
            )
        return [self._lives[key] for key in keys]

    def free(self) -> int:
        """Engines for which there is room beside all that is wanted, as far as their sizes are known."""
        lives = [life for life in self._lives.values() if life.wanted or life.state is not State.GONE]
        size = max((life.bytes for life in lives), default=0)
        pending = sum(size for life in lives if life.key not in self._budget)
        count = self._budget.count - len(lives)
        return count if not size else min(count, (self._budget.size - self._budget.used - pending) // size)

    def _may_push_out(self, life: Life, other: Life) -> bool:
        if other.leave.is_set():
            return False
        if other.wish is Wish.TRAFFIC:
            return life.wish > Wish.TRAFFIC
        if other.state is not State.SERVING:
            return False
        if not other.wanted:  # only kept until what replaced it serves
            return True
        if other.users or life.wish is Wish.TRAFFIC:
            return False
        return life.asked or (not other.asked and other.demand.value() * _WORTH < life.demand.value())

    def _push_out(self, victim: Life, life: Life) -> None:
        log.info("merged engine makes room", adapter=victim.name, makes_room_for=life.name)
        victim.asked = False  # an operator may ask again; left to itself it would push the other one out in turn
        victim.why = f"made room for {life.name}"
        self._pushed_out(victim)
        victim.send_away()
