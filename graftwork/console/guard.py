"""What every request passes: headers that bind the browser, a limit on bodies, forms that only our pages can send, a log line.

Owns what holds for all pages alike. Does not own who is signed in (`visitor.py`).
"""

import secrets
import time
from urllib.parse import urlsplit

import structlog
from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graftwork.console.errors import FormRefused
from graftwork.console.visitor import cookie_of, sessions_of

MAX_BODY_BYTES = 256 << 10
"""Of a form; the longest field is a prompt."""
TOKEN_FIELD = "form_token"
TOKEN_HEADER = "x-graft-form-token"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
STATIC_PREFIX = "/static/"
_MAX_SHOWN = 200  # characters of a path or an address

SECURITY_HEADERS = {
    # Nothing from elsewhere, nothing inline, no frame around us, forms to ourselves.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # not no-referrer: forms would then say that they come from nowhere
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
log = structlog.get_logger()


class Guard:
    """ASGI middleware around all pages.

    Args:
        app: what it guards.
        secure: browsers speak TLS to us; they are told never to do without.
        behind_proxy: the last address of X-Forwarded-For is whom our proxy speaks for; those before it anybody can write.
    """

    def __init__(self, app: ASGIApp, secure: bool, behind_proxy: bool) -> None:
        self._app, self._behind_proxy = app, behind_proxy
        self._headers = SECURITY_HEADERS | ({"strict-transport-security": "max-age=31536000"} if secure else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, started, status = secrets.token_hex(8), time.monotonic(), 0
        scope.setdefault("state", {})["request_id"] = request_id
        left = MAX_BODY_BYTES
        is_static = scope["path"].startswith(STATIC_PREFIX)
        if self._behind_proxy:
            forwarded = Headers(scope=scope).getlist("x-forwarded-for")
            if forwarded and (peer := forwarded[-1].rpartition(",")[2].strip()):
                scope["client"] = (peer[:_MAX_SHOWN], 0)

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"A form may have at most {MAX_BODY_BYTES >> 10} KiB.")
            return message

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                # Pages of a session must not come back after its end; files of an older console neither.
                headers.setdefault("cache-control", "no-cache" if is_static else "no-store")
                headers["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, bounded, with_headers)
        finally:
            quiet = is_static or scope["path"] == "/healthz"
            # The path names tenants and adapters as the services' logs do; the query is left out.
            (log.debug if quiet else log.info)(
                "request",
                method=scope["method"],
                path=scope["path"][:_MAX_SHOWN],
                status=status,
                ms=round((time.monotonic() - started) * 1e3, 1),
                request_id=request_id,
            )


async def require_form_token(request: Request) -> None:
    """Refuses what could change something unless one of our own pages, shown to this very session, sent it.

    A dependency of the whole application, so that no page can forget it.

    Raises:
        FormRefused: from another site, or without the session's token.
    """
    if request.method in SAFE_METHODS:
        return
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site != "same-origin" or (origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")):
        raise FormRefused("the form came from another site; nothing was changed")
    token = request.headers.get(TOKEN_HEADER) or (await request.form()).get(TOKEN_FIELD, "")
    if not sessions_of(request).is_form_token(cookie_of(request), str(token)):
        raise FormRefused("the page that you sent has expired; nothing was changed: go back, load it again, send again")
