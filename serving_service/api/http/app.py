"""The HTTP application: its routes inside an envelope that gives every answer an id and every error its shape.

Owns the envelope. It is one middleware around everything, so that no route can forget it. There is no page of documentation
and no schema: they would load scripts from other hosts and show more than a tenant needs.
"""

import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graftwork.errors import GraftError
from graftwork.late_lines import log_late
from graftwork.rpc.status import REQUEST_ID_KEY
from serving_service.api.http.errors import NoSuchRoute, failure_of

log = structlog.get_logger("graftwork.http")


def create_app(routers: Sequence[APIRouter]) -> ASGIApp:
    """Returns the application.

    Args:
        routers: of the OpenAI-compatible API, and of whatever else is to be answered on its port.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(GraftError, _failed)
    app.add_exception_handler(HTTPException, _not_routed)
    return Envelope(app)


async def _failed(request: Request, error: Exception) -> Response:
    failure = failure_of(error, request.state.request_id)
    return JSONResponse(failure.body, failure.status, headers=failure.headers)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    failure = failure_of(
        NoSuchRoute("no such path here, or not with this method; see /v1/models"), request.state.request_id
    )
    return JSONResponse(failure.body, error.status_code, headers={**failure.headers, **(error.headers or {})})


class Envelope:
    """Around every request: its id, unknown errors as a fixed text, a line in the log without any of its text.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; only `http` ones exist here."""
        if scope["type"] != "http":
            raise NotImplementedError(f"no {scope['type']} here")
        began = time.monotonic()
        request_id = uuid.uuid4().hex[:16]
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name.lower() for name, _ in message["headers"]}
                if REQUEST_ID_KEY.encode() not in names:
                    message["headers"] = [*message["headers"], (REQUEST_ID_KEY.encode(), request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        except Exception as error:
            log.exception("unexpected error", request_id=request_id)
            if not status:
                failure = failure_of(error, request_id)
                await JSONResponse(failure.body, failure.status)(scope, receive, tagged)
        finally:
            ms = round((time.monotonic() - began) * 1e3, 1)
            path = getattr(scope.get("route"), "path", "-")  # the route's, not the client's: that one is unbounded
            fields = {"method": scope["method"], "path": path, "status": status, "caller": state.get("caller", "-")}
            fields |= {"request_id": request_id, "ms": ms}
            log_late(log, logging.INFO, "call", lambda: fields)
