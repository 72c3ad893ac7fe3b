"""The visitor of a request: their session, their client, and what the page may ask for.

Owns the cookie and the dependency that pages take: `visitor: Visitor = Depends(...)` is written `visitor: SignedIn`.
Does not own sessions' lives (`sessions.py`) nor streams (`streams.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from graftwork.client import Client
from graftwork.client.errors import RemoteInternal, RemoteUnauthenticated
from graftwork.console.errors import NotForThisKey, SignInNeeded
from graftwork.console.sessions import Flash, Session, Sessions
from graftwork.console.settings import ConsoleSettings
from graftwork.errors import GraftError
from graftwork.rpc.access import Access, require_access
from graftwork.rpc.auth import Principal, Role

BACKGROUND_HEADER = "x-graft-background"
"""A page's own script sends it with what it fetches by itself, so that an open page does not keep a session alive."""
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asked.

    Attributes:
        session: theirs.
        settings: of the console.
        sessions: all of them.
    """

    session: Session
    settings: ConsoleSettings
    sessions: Sessions

    @property
    def principal(self) -> Principal:
        return self.session.principal

    @property
    def form_token(self) -> str:
        """What the forms of this visitor's pages carry."""
        return self.sessions.form_token(self.session.id)

    @property
    def is_signed_in(self) -> bool:
        """Whether the session still goes on; for what outlives a request."""
        return self.sessions.find(self.session.id, touch=False) is not None

    @property
    def oversees(self) -> bool:
        """Whether they see all tenants: operators and viewers."""
        return self.principal.oversees

    @property
    def is_operator(self) -> bool:
        """Whether they run the installation: limits, tenants, what lies where."""
        return self.principal.role is Role.OPERATOR

    @property
    def may_change(self) -> bool:
        """Whether they change and generate at all; a viewer only looks."""
        return self.principal.role is not Role.VIEWER

    @property
    def tenant(self) -> str | None:
        """The tenant's id; None for those who see all."""
        return self.principal.tenant

    @property
    def label(self) -> str:
        """Whose key it is, for the top of a page."""
        return self.tenant or " ".join(part for part in (self.principal.role.value, self.principal.name) if part)

    @property
    def client(self) -> Client:
        """Calls the services with the visitor's own key. It blocks: for pages that are plain functions, which run in threads."""
        return self.session.client(self.settings)

    def require_oversight(self) -> None:
        """Raises NotForThisKey for a tenant."""
        if not self.oversees:
            raise NotForThisKey("this page is for operators; you are signed in with a tenant's key")

    def say(self, text: str, *, bad: bool = False, secret: str = "") -> None:
        """Shows a line on the next page."""
        self.session.flashes.append(Flash(text, bad, secret))

    def attempt(self, done: str, call: Callable[[], Answer]) -> Answer | None:
        """Makes a change and says on the next page what came of it; None when it was refused.

        Raises:
            RemoteUnauthenticated: the key is good no more.
            RemoteInternal: nothing that the visitor could mend.
        """
        try:
            answer = call()
        except (RemoteUnauthenticated, RemoteInternal):
            raise
        except GraftError as error:
            self.say(str(error), bad=True)
            return None
        if done:
            self.say(done)
        return answer

    async def attempt_aside(self, done: str, call: Callable[[], Answer]) -> Answer | None:
        """`attempt` for pages on the event loop: the call blocks, so it runs in a thread."""
        return await run_in_threadpool(self.attempt, done, call)


def cookie_name(request: Request) -> str:
    """Browsers do not keep cookies of one host's ports apart: two consoles on a machine would end each other's sessions."""
    settings = settings_of(request)
    return f"{'__Host-' if settings.secure else ''}graft-console-{request.url.port or 'default'}"


def cookie_of(request: Request) -> str:
    return request.cookies.get(cookie_name(request), "")


def set_cookie(request: Request, response: Response, value: str) -> None:
    """Until the browser closes; the session's own end comes from `Sessions`."""
    response.set_cookie(
        cookie_name(request), value, httponly=True, samesite="strict", secure=settings_of(request).secure, path="/"
    )


def settings_of(request: Request) -> ConsoleSettings:
    settings = request.app.state.settings
    assert isinstance(settings, ConsoleSettings)
    return settings


def sessions_of(request: Request) -> Sessions:
    sessions = request.app.state.sessions
    assert isinstance(sessions, Sessions)
    return sessions


def is_by_script(request: Request) -> bool:
    """Whether a page's script asks by itself, and no person does."""
    return BACKGROUND_HEADER in request.headers or "text/event-stream" in request.headers.get("accept", "")


def visitor_or_none(request: Request) -> Visitor | None:
    """Returns who asked, None for one who is not signed in."""
    sessions = sessions_of(request)
    session = sessions.find(cookie_of(request), touch=not is_by_script(request))
    return Visitor(session, settings_of(request), sessions) if session else None


def _signed_in(request: Request) -> Visitor:
    visitor = visitor_or_none(request)
    if visitor is None:
        raise SignInNeeded("sign in first")
    return visitor


SignedIn = Annotated[Visitor, Depends(_signed_in)]
"""A page's parameter: the visitor, or the way to the sign-in page."""


def _changing(visitor: SignedIn) -> Visitor:
    require_access(visitor.principal, Access.CHANGE)
    return visitor


def _operating(visitor: SignedIn) -> Visitor:
    if not visitor.is_operator:
        role = visitor.principal.role.value
        raise NotForThisKey(f"this is for operators; you are signed in with a {role}'s key")
    return visitor


Changing = Annotated[Visitor, Depends(_changing)]
"""Of pages that change something or generate, and of those that ask before: anybody but a viewer."""
Operating = Annotated[Visitor, Depends(_operating)]
"""Of what operators alone may change."""
