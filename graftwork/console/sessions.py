"""Who is signed in: sessions in memory, each with its visitor's key, ended by idleness and by age.

Owns sessions and the tokens of their forms. Does not own cookies (`visitor.py`) nor whether a key is good (the services do).
Nothing is written anywhere: a console that is started again has no sessions.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from graftwork.client import Client
from graftwork.console.connections import connect, way_to
from graftwork.console.errors import TooMany
from graftwork.console.settings import ConsoleSettings
from graftwork.rpc.auth import Principal

_STRANGER = "new."
MAX_STREAMS = 12
"""Open at once in one session: a few pages that show things live."""


@dataclass(frozen=True, slots=True)
class Flash:
    """A line for the next page.

    Attributes:
        text: what to say.
        bad: something failed.
        secret: shown apart, once: a new key.
    """

    text: str
    bad: bool = False
    secret: str = ""


@dataclass(slots=True)
class Session:
    """One signed-in browser.

    Attributes:
        id: what the cookie says; random.
        principal: whose key it is.
        key: the key itself. Never shown, logged or stored.
        begun, seen: of the monotonic clock.
    """

    id: str = field(repr=False)
    principal: Principal
    key: str = field(repr=False)
    begun: float
    seen: float
    flashes: list[Flash] = field(default_factory=list)
    _client: Client | None = None
    _way: tuple[object, ...] = ()
    _streams: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, settings: ConsoleSettings) -> Client:
        """Returns a client of the services where they are now, with the certificates that there are now."""
        way = way_to(settings)
        with self._lock:
            if self._client is None or way != self._way:
                self._close()
                self._client, self._way = connect(settings, settings.addresses(), self.key), way
            return self._client

    @contextmanager
    def one_stream(self) -> Iterator[None]:
        """Counts a stream while it is open. Raises TooMany."""
        with self._lock:
            if self._streams >= MAX_STREAMS:
                raise TooMany(f"{MAX_STREAMS} live pages are open already; close one")
            self._streams += 1
        try:
            yield
        finally:
            with self._lock:
                self._streams -= 1

    def take_flashes(self) -> list[Flash]:
        """Returns what the next page has to say, once."""
        with self._lock:
            taken, self.flashes = self.flashes, []
        return taken

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


class Sessions:
    """All sessions of this process.

    Args:
        settings: how long they last and how many there may be.
        clock: seconds, monotonic.
    """

    def __init__(self, settings: ConsoleSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._found: dict[str, Session] = {}
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()

    def begin(self, key: str, principal: Principal) -> Session:
        """Makes a session under a new random id, so that an id which somebody planted before is worth nothing."""
        now = self._clock()
        session = Session(new_id(), principal, key, now, now)
        with self._lock:
            ended = self._take_ended(now)
            if len(self._found) >= self._settings.max_sessions:
                idlest = min(self._found.values(), key=lambda other: other.seen)
                ended.append(self._found.pop(idlest.id))
            self._found[session.id] = session
        for old in ended:
            old.close()
        return session

    def find(self, session_id: str, *, touch: bool) -> Session | None:
        """Returns a session that goes on.

        Args:
            session_id: from the cookie.
            touch: a person asked, and not a page by itself: the idle time begins anew.
        """
        now = self._clock()
        with self._lock:
            ended = self._take_ended(now)
            session = self._found.get(session_id)
            if session is not None and touch:
                session.seen = now
        for old in ended:
            old.close()
        return session

    def end(self, session_id: str) -> None:
        """Ends a session; none is no error."""
        with self._lock:
            session = self._found.pop(session_id, None)
        if session is not None:
            session.close()

    def close(self) -> None:
        """Ends all of them."""
        with self._lock:
            ended, self._found = list(self._found.values()), {}
        for session in ended:
            session.close()

    def form_token(self, session_id: str) -> str:
        """Returns what forms of this session's pages carry; of a visitor's too who is not signed in yet."""
        return hmac.new(self._secret, session_id.encode(), hashlib.sha256).hexdigest()

    def is_form_token(self, session_id: str, token: str) -> bool:
        return bool(session_id) and hmac.compare_digest(self.form_token(session_id).encode(), token.encode())

    def __len__(self) -> int:
        return len(self._found)

    def _take_ended(self, now: float) -> list[Session]:
        ended = [
            session
            for session in self._found.values()
            if now - session.seen > self._settings.idle_seconds or now - session.begun > self._settings.session_seconds
        ]
        for session in ended:
            del self._found[session.id]
        return ended


def new_id() -> str:
    """A cookie's value: 256 random bits."""
    return secrets.token_urlsafe(32)


def stranger_id() -> str:
    """A cookie's value before signing in, for the form's token; told from the id of a session that has ended."""
    return f"{_STRANGER}{new_id()}"


def is_ended(cookie: str) -> bool:
    """Whether a cookie without a session once had one."""
    return bool(cookie) and not cookie.startswith(_STRANGER)
