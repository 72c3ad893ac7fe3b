"""The door in front of every call: the key is looked at, and whoever comes with wrong ones again and again has to wait.

Owns the limit on failed authentication, by the peer's address. Does not own keys (`Authenticator`) nor roles. A good key that
was used from an address lately goes on working from there, so that one tenant's broken script behind a shared address does
not lock the others out; keys are 192 random bits, and what the limit holds back is load and noise, not lucky guesses.
"""

import functools
import hashlib
import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import unquote

import structlog

from graftwork.errors import ErrorCode, GraftError
from graftwork.rpc.auth import Authenticator, Principal

FAILURES_PER_MINUTE = 60
"""Wrong keys that one address may bring in a minute; as many at once after a quiet minute."""
_PEERS = 4096  # remembered; the one that was silent for longest is forgotten
_GOOD_KEYS = 256  # remembered for each peer
_V6_NETWORK = 64  # bits: what one customer of a provider has, and may choose addresses in at will

log = structlog.get_logger("graftwork.rpc")


class TooManyFailures(GraftError):
    """Wrong keys came from that address again and again; a key that has not been good there lately has to wait."""

    code: ClassVar[ErrorCode] = ErrorCode.EXHAUSTED


@dataclass(slots=True)
class _Peer:
    left: float
    """Failures that it may still make."""
    at: float
    told: bool = False
    """Whether the log knows that it is held back."""
    good: "OrderedDict[bytes, None]" = field(default_factory=OrderedDict)
    """Hashes of keys that were good from here, oldest first."""


class Door:
    """Authenticates within limits. One for all listeners of a process, used from its event loop and from threads.

    Args:
        authenticator: turns a key into the caller.
        failures_per_minute: of one address; 0 sets no limit.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        failures_per_minute: int = FAILURES_PER_MINUTE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._authenticator, self._limit, self._clock = authenticator, failures_per_minute, clock
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._lock = threading.Lock()

    async def admit(self, token: str, peer: str) -> Principal:
        """Returns the caller.

        Args:
            token: the key.
            peer: where it comes from, as gRPC or the HTTP server names it.

        Raises:
            TooManyFailures: from an address over its limit, with a key that was not good there lately. Nothing is looked up.
            GraftError: as the authenticator raises it.
        """
        if not self._limit:
            return await self._authenticator.authenticate(token)
        address, key = address_of(peer), hashlib.sha256(token.encode()).digest()
        self._hold_back(address, key)
        try:
            principal = await self._authenticator.authenticate(token)
        except GraftError as error:
            if error.code is ErrorCode.UNAUTHENTICATED:
                self._failed(address, key)
            raise
        self._succeeded(address, key)
        return principal

    def _hold_back(self, address: str, key: bytes) -> None:
        with self._lock:
            peer = self._peers.get(address)
            if peer is None or key in peer.good or self._refill(peer) >= 1:
                return
            wait, told = (1 - peer.left) * 60 / self._limit, peer.told
            peer.told = True
        if not told:
            log.warning("held back for wrong keys", peer=address)
        refused = TooManyFailures(
            f"too many wrong API keys came from {address}; wait {wait:.0f} s, and mend the client that sends them"
        )
        refused.retry_after_seconds = wait
        raise refused

    def _failed(self, address: str, key: bytes) -> None:
        with self._lock:
            peer = self._peer(address)
            peer.good.pop(key, None)  # revoked since: it counts like any other from now on
            peer.left = max(0.0, self._refill(peer) - 1)

    def _succeeded(self, address: str, key: bytes) -> None:
        with self._lock:
            peer = self._peer(address)
            peer.good[key] = None
            peer.good.move_to_end(key)
            while len(peer.good) > _GOOD_KEYS:
                peer.good.popitem(last=False)

    def _peer(self, address: str) -> _Peer:
        peer = self._peers.setdefault(address, _Peer(self._limit, self._clock()))
        self._peers.move_to_end(address)
        while len(self._peers) > _PEERS:
            self._peers.popitem(last=False)
        return peer

    def _refill(self, peer: _Peer) -> float:
        now = self._clock()
        peer.left = min(float(self._limit), peer.left + (now - peer.at) * self._limit / 60)
        peer.at = now
        peer.told = peer.told and peer.left < 1
        return peer.left


def door_of(authenticator: "Authenticator | Door") -> Door:
    """Returns the door itself, or one with the usual limit in front of an authenticator."""
    return authenticator if isinstance(authenticator, Door) else Door(authenticator)


@functools.lru_cache(_PEERS)
def address_of(peer: str) -> str:
    """Returns what of a peer counts as one address: an IPv4 address, an IPv6 network of 64 bits, or `unix`.

    Args:
        peer: `ipv4:10.0.0.1:5000`, `ipv6:%5B::1%5D:5000` or `unix:...` as gRPC says it, or a bare address.
    """
    kind, _, rest = peer.partition(":")
    if kind == "unix":
        return kind
    text = unquote(rest if kind in ("ipv4", "ipv6") else peer)
    if kind in ("ipv4", "ipv6"):
        text = text.rpartition(":")[0]
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _V6_NETWORK), strict=False))
    return str(address)
