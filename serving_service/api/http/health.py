"""/healthz, /readyz and /metrics: for probes, load balancers and Prometheus.

Owns the three answers' form. Does not own the states (`core.readiness`) nor the metrics (`observe`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from graftwork.errors import GraftError
from graftwork.rpc.auth import Authenticator, bearer_token
from graftwork.rpc.door import Door, door_of
from graftwork.rpc.status import STATUS
from serving_service.core.readiness import Part, Readiness
from serving_service.observe.loop_lag import LoopLag

PATHS = ("/healthz", "/readyz", "/metrics")
_NOT_CACHED = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class Probed:
    """What the three answers are made of.

    Attributes:
        readiness: tells the states now.
        registry: of the metrics.
        lag: of the event loop.
        authenticator: checks an operator's or a viewer's key in front of the metrics; None shows them to everybody.
    """

    readiness: Callable[[], Readiness]
    registry: CollectorRegistry
    lag: LoopLag
    authenticator: Authenticator | Door | None = None


def health_router(probed: Probed) -> APIRouter:
    """Returns the three routes, for an application or as one; GET and HEAD, no key but for protected metrics."""
    door = None if probed.authenticator is None else door_of(probed.authenticator)

    async def healthz(request: Request) -> Response:
        """The process runs and its event loop turns: this answer is the proof."""
        late = max(0.0, time.monotonic() - probed.lag.beat)
        body = {"status": "alive", "loop_lag_seconds": round(probed.lag.last, 4), "since_beat_seconds": round(late, 2)}
        return JSONResponse(body, headers=_NOT_CACHED)

    async def readyz(request: Request) -> Response:
        """200 only when the model is loaded and the service is not draining; the body says which part is how since when."""
        states = probed.readiness()
        # Probes carry no key, and a cause may name the store's places and tenants: it is shown where metrics are.
        causes = probed.authenticator is None
        parts = {"model": states.model, "store": states.store, "draining": states.draining}
        body = {"ready": states.ready, **{name: _part(part, causes) for name, part in parts.items()}}
        return JSONResponse(
            body, HTTPStatus.OK if states.ready else HTTPStatus.SERVICE_UNAVAILABLE, headers=_NOT_CACHED
        )

    async def metrics(request: Request) -> Response:
        """Prometheus's text format."""
        if door is not None:
            try:
                peer = request.client.host if request.client else ""
                principal = await door.admit(bearer_token(dict(request.headers)), peer)
                principal.require_overseer()
            except GraftError as error:
                return JSONResponse({"error": str(error), "code": error.code.value}, STATUS[error.code].http)
        return Response(generate_latest(probed.registry), media_type=CONTENT_TYPE_LATEST, headers=_NOT_CACHED)

    answers = zip(PATHS, (healthz, readyz, metrics), strict=True)
    return APIRouter(routes=[Route(path, answer) for path, answer in answers])


def _part(part: Part, with_cause: bool) -> dict[str, str]:
    told = {"state": part.state, "since": part.since.isoformat(timespec="milliseconds")}
    return told | ({"cause": part.cause} if part.cause and with_cause else {})
