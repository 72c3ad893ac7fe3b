"""What goes wrong, one fault at a time, at moments and of kinds that a seed decides.

Owns doing and undoing. Every fault is over when its function returns; what it has hit may need longer.
"""

import random
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import psutil

from tests.chaos.clock import JumpingClock
from tests.chaos.disk import SmallDisk
from tests.chaos.slow_proxy import SlowProxy
from tests.chaos.system import System

JUMPS_S = (-86_400.0, -3_600.0, -60.0, 60.0, 3_600.0, 86_400.0)


@dataclass
class Faults:
    """Everything that can be done to a system.

    Args:
        system: the victim.
        network: between it and its store.
        disk: under its home.
        clock: its processes'; None where there is no compiler.
        chance: of what, how long and whom.
    """

    system: System
    network: SlowProxy
    disk: SmallDisk
    clock: JumpingClock | None
    chance: random.Random
    done: list[str] = field(default_factory=list)
    _rest: threading.Event = field(default_factory=threading.Event)

    def kills(self) -> dict[str, Callable[[], bool]]:
        """Faults after which a process is another one; each tells whether it found a victim."""
        return {
            "kill a worker": lambda: self._signal(self.system.workers(), signal.SIGKILL),
            "kill the trainer": lambda: self._signal_service("trainer"),
            "kill the serving service": lambda: self._signal_service("serving"),
            "kill the engine": lambda: (
                self.system.is_ready("serving") and self._signal(self.system.engines(), signal.SIGKILL)
            ),
            "kill graft up": self._kill_up,
        }

    def troubles(self) -> dict[str, Callable[[], bool]]:
        """Faults that processes must live through."""
        return {
            "store away": self._store_away,
            "slow network": self._slow_network,
            "freeze the trainer": lambda: self._freeze("trainer"),
            "freeze the serving service": lambda: self._freeze("serving"),
            **({"disk full": self._disk_full} if self.disk.can_be_filled else {}),
            **({"clock jump": self._clock_jump} if self.clock else {}),
        }

    def missing(self) -> list[str]:
        """Faults that this machine does not allow."""
        return [
            *([] if self.disk.can_be_filled else ["disk full (no mount)"]),
            *([] if self.clock else ["clock jump (no cc)"]),
        ]

    def end(self) -> None:
        """Puts the clock right; nothing else outlasts its fault."""
        if self.clock:
            self.clock.set(0.0)

    def _hold(self, least: float, most: float) -> None:
        self._rest.wait(self.chance.uniform(least, most))

    def _store_away(self) -> bool:
        self.network.cut()
        self._hold(1, 8)
        self.network.mend()
        return True

    def _slow_network(self) -> bool:
        self.network.delay_s = self.chance.choice((0.02, 0.1, 0.4))
        self._hold(3, 10)
        self.network.delay_s = 0.0
        return True

    def _disk_full(self) -> bool:
        self.disk.fill()
        try:
            self._hold(1, 8)
        finally:
            self.disk.empty()
        return True

    def _clock_jump(self) -> bool:
        assert self.clock is not None
        self.clock.set(self.chance.choice(JUMPS_S))
        self._hold(1, 6)
        if self.chance.random() < 0.5:
            self.clock.set(0.0)
        return True

    def _freeze(self, name: str) -> bool:
        process = self.system.service(name)
        if process is None:
            return False
        try:
            process.suspend()
            self._hold(1, 6)
            process.resume()
        except psutil.NoSuchProcess:
            return False
        return True

    def _signal_service(self, name: str) -> bool:
        # Only one that is ready: killed while it starts, again and again, it would never serve, whatever we ship.
        process = self.system.service(name) if self.system.is_ready(name) else None
        return process is not None and self._signal([process], signal.SIGKILL)

    def _kill_up(self) -> bool:
        up = self.system.up() if self.system.all_ready() else None
        return up is not None and self._signal([up], signal.SIGKILL)

    def _signal(self, processes: Iterable[psutil.Process], number: int) -> bool:
        found = sorted(processes, key=lambda process: process.pid)
        if not found:
            return False
        try:
            self.chance.choice(found).send_signal(number)
        except psutil.NoSuchProcess:
            return False
        return True


def storm(faults: Faults, kinds: dict[str, Callable[[], bool]], seconds: float, clock: Callable[[], float]) -> None:
    """Does faults of these kinds, each in turn of a shuffled order, with pauses, until the time is over."""
    ends, names = clock() + seconds, []
    pause = threading.Event()
    while clock() < ends:
        pause.wait(min(faults.chance.uniform(0.5, 4), max(0.0, ends - clock())))
        names = names or faults.chance.sample(sorted(kinds), len(kinds))
        name = names.pop()
        if kinds[name]():
            faults.done.append(name)
