"""How errors look to a browser: a page that says what happened and what to do, with the request's id.

Owns the handlers. Does not own which status a code has (`graftwork.rpc.status`).
"""

from http import HTTPStatus
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from graftwork.client.errors import RemoteError, RemoteUnauthenticated
from graftwork.console.errors import SignInNeeded
from graftwork.console.guard import SAFE_METHODS, SECURITY_HEADERS
from graftwork.console.rendering import render
from graftwork.console.sessions import is_ended
from graftwork.console.visitor import cookie_of, is_by_script, sessions_of, visitor_or_none
from graftwork.errors import GraftError
from graftwork.rpc.status import STATUS

_TITLES = {
    400: "That does not work",
    403: "Not allowed",
    404: "Not found",
    409: "Changed meanwhile",
    412: "Not now",
    429: "Too much at once",
    503: "Away",
}
_NEXT = {
    403: "Sign in with a key that may do this, or ask your operator.",
    404: "It may have been deleted, or be another tenant's: look for it in the lists.",
    409: "Load the page again, and look at what has changed.",
    429: "Wait a little, then try again.",
    500: "The logs of the console and of the service have the cause, under the request's number.",
    503: "Nothing was changed. A service that is started again is found by itself: try again in a minute. If it stays so, "
    "operators look at the overview, `graft status` and the service's log; tenants tell their operator.",
    504: "The service is slow or overloaded: try again in a minute.",
}
"""What to do, where the message itself may not say."""
_AGAIN = (429, 503, 504)
ENDED, UNSENT, REFUSED = "ended", "unsent", "refused"
"""Why somebody is led to the sign-in page, in its address."""


def add_handlers(app: FastAPI) -> None:
    """Gives every kind of failure its answer."""
    app.add_exception_handler(SignInNeeded, _to_sign_in)
    app.add_exception_handler(RemoteUnauthenticated, _key_is_gone)
    app.add_exception_handler(GraftError, _told)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _wrong_request)
    app.add_exception_handler(Exception, _unexpected)


async def _to_sign_in(request: Request, error: Exception) -> Response:
    if is_by_script(request):
        return JSONResponse({"message": str(error)}, HTTPStatus.UNAUTHORIZED)
    if request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
        # A link from another site comes without our SameSite=Strict cookie. Asked for again from a page of ours, it comes
        # with it; without this, the sign-in page would take a good session away.
        return render(request, None, "again.html", target=request.url.path)
    safe = request.method in SAFE_METHODS
    why = (ENDED if safe else UNSENT) if is_ended(cookie_of(request)) else ""
    return _lead_to_sign_in(request.url.path if safe else "/", why)


def _lead_to_sign_in(wanted: str, why: str) -> Response:
    asked = {"next": wanted if wanted != "/" else "", "why": why}
    query = urlencode({name: value for name, value in asked.items() if value}, safe="/")
    return RedirectResponse(f"/signin?{query}" if query else "/signin", HTTPStatus.SEE_OTHER)


async def _key_is_gone(request: Request, error: Exception) -> Response:
    """The services refuse the session's key: it was revoked, or its tenant disabled."""
    sessions_of(request).end(cookie_of(request))
    if is_by_script(request):
        return JSONResponse({"message": str(error)}, HTTPStatus.UNAUTHORIZED)
    return _lead_to_sign_in("/", REFUSED)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, GraftError)
    remote_id = error.request_id if isinstance(error, RemoteError) else ""
    return _page(request, STATUS[error.code].http, str(error), remote_id)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {404: "There is no such page.", 405: "This address takes no such request."}
    return _page(request, error.status_code, texts.get(error.status_code, str(error.detail)))


async def _wrong_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = sorted({str(problem["loc"][-1]) for problem in error.errors()})
    return _page(request, HTTPStatus.BAD_REQUEST, f"These fields cannot be used as they are: {', '.join(fields)}.")


async def _unexpected(request: Request, error: Exception) -> Response:
    """Says nothing of the error itself; the server logs it. The guard is inside of this one, so its headers come here."""
    page = _page(request, HTTPStatus.INTERNAL_SERVER_ERROR, "The console failed. Its log has the cause.")
    page.headers.update(SECURITY_HEADERS | {"cache-control": "no-store"})
    return page


def _page(request: Request, status: int, message: str, remote_id: str = "") -> Response:
    if is_by_script(request):
        return JSONResponse({"message": message}, status)
    return render(
        request,
        visitor_or_none(request),
        "error.html",
        status=status,
        title=_TITLES.get(status, "Something failed"),
        code=status,
        message=message,
        following=_NEXT.get(status, ""),
        again=str(request.url.path) if request.method == "GET" and status in _AGAIN else "",
        request_id=getattr(request.state, "request_id", ""),
        remote_id=remote_id,
    )
