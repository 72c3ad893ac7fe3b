"""Signing in with an operator's or a tenant's key, and out again.

Owns how a key becomes a session. Does not own whether a key is good: a service is asked.
"""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from graftwork.client.callers import principal_of
from graftwork.client.errors import RemoteForbidden, RemoteNotFound, RemoteUnauthenticated
from graftwork.console.attempts import Attempts
from graftwork.console.connections import connect
from graftwork.console.errors import WrongForm
from graftwork.console.failures import ENDED, REFUSED, UNSENT
from graftwork.console.rendering import render
from graftwork.console.sessions import stranger_id
from graftwork.console.settings import ConsoleSettings
from graftwork.console.visitor import cookie_of, sessions_of, set_cookie, settings_of, visitor_or_none
from graftwork.errors import GraftError
from graftwork.rpc.auth import OPERATOR_PREFIX, Principal
from graftwork.rpc.status import STATUS

router = APIRouter()
_MAX_KEY = 200  # characters; the services refuse longer ones unread
_WHY = {
    ENDED: "your session has ended: sign in again to go on where you were",
    UNSENT: "your session has ended, and what you sent was not carried out: sign in again, then send it again",
    REFUSED: "the services refuse the key that you were signed in with: it was revoked, or its tenant is disabled",
}
_WRONG = "this key is not valid: look for a missing character, or ask your operator for a new one; a revoked key is refused too"


@router.get("/signin")
def show_form(request: Request, next: str = "/", why: str = "") -> Response:
    if visitor_or_none(request) is not None:
        return RedirectResponse(local_path(next), HTTPStatus.SEE_OTHER)
    if request.headers.get("sec-fetch-site") == "cross-site":  # see failures.py: the cookie may only be kept back
        return render(request, None, "again.html", target="/signin")
    return _form(request, next, _WHY.get(why, ""))


@router.post("/signin")
def sign_in(request: Request, key: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/") -> Response:
    attempts: Attempts = request.app.state.attempts
    peer = request.client.host if request.client else "?"
    try:
        attempts.check(peer)
        principal = identify(settings_of(request), key.strip())
    except (RemoteUnauthenticated, RemoteNotFound, RemoteForbidden, WrongForm):
        attempts.failed(peer)
        return _form(request, next, _WRONG, HTTPStatus.UNAUTHORIZED)
    except GraftError as error:  # too many attempts, or the service is away
        return _form(request, next, str(error), STATUS[error.code].http)
    sessions = sessions_of(request)
    sessions.end(cookie_of(request))
    response = RedirectResponse(local_path(next), HTTPStatus.SEE_OTHER)
    set_cookie(request, response, sessions.begin(key.strip(), principal).id)
    return response


@router.post("/signout")
def sign_out(request: Request) -> Response:
    sessions_of(request).end(cookie_of(request))
    response = RedirectResponse("/signin", HTTPStatus.SEE_OTHER)
    set_cookie(request, response, stranger_id())
    return response


def identify(settings: ConsoleSettings, key: str) -> Principal:
    """Asks the services whose key this is.

    Raises:
        WrongForm: nothing that looks like a key.
        RemoteError: it is refused, or nobody answers.
    """
    parts = key.split("_")
    operator = key.startswith(OPERATOR_PREFIX)
    if not (key.isascii() and key.isprintable() and len(key) <= _MAX_KEY) or not (
        operator or (len(parts) == 3 and parts[0] == "gw")
    ):
        raise WrongForm(_WRONG)
    with connect(settings, settings.addresses(), key) as client:
        return principal_of(client.caller())


def local_path(target: str) -> str:
    """Returns a path of ours to go to; anything that a browser could take for another site is the front page."""
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if plain else "/"


def _form(request: Request, target: str, problem: str = "", status: int = HTTPStatus.OK) -> Response:
    cookie = cookie_of(request) or stranger_id()
    page = render(
        request,
        None,
        "signin.html",
        status=status,
        form_token=sessions_of(request).form_token(cookie),
        target=local_path(target),
        problem=problem,
    )
    set_cookie(request, page, cookie)
    return page
