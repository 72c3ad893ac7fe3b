"""How errors look to a browser: a page that says what happened and what to do, with the request's id.

Owns the handlers. Does not own which status a code has (`graftwork.rpc.status`).
"""

from http import HTTPStatus
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from graftwork.client.errors import RemoteError, RemoteUnauthenticated
from graftwork.console.errors import SignInNeeded
from graftwork.console.guard import SAFE_METHODS, SECURITY_HEADERS
from graftwork.console.rendering import render
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
    wanted = request.url.path if request.method in SAFE_METHODS else "/"
    target = "/signin" if wanted == "/" else f"/signin?next={quote(wanted)}"
    return RedirectResponse(target, HTTPStatus.SEE_OTHER)


async def _key_is_gone(request: Request, error: Exception) -> Response:
    """The services refuse the session's key: it was revoked, or its tenant disabled."""
    sessions_of(request).end(cookie_of(request))
    return await _to_sign_in(request, error)


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
        request_id=getattr(request.state, "request_id", ""),
        remote_id=remote_id,
    )
