"""The application: pages, static files, the guard around them, and how errors look.

Owns how the parts are put together. Does not own the process (`__main__.py`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.responses import PlainTextResponse
from starlette.staticfiles import StaticFiles

from graftwork.console.attempts import Attempts
from graftwork.console.failures import add_handlers
from graftwork.console.guard import Guard, require_form_token
from graftwork.console.pages import ROUTERS, navigation, section
from graftwork.console.rendering import STATIC
from graftwork.console.sessions import Sessions
from graftwork.console.settings import ConsoleSettings


def create_app(settings: ConsoleSettings) -> FastAPI:
    """Returns the console.

    Args:
        settings: where the services are, and how long sessions last.
    """
    sessions = Sessions(settings)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        sessions.close()

    app = FastAPI(
        title="Graftwork console",
        openapi_url=None,  # pages for people: their addresses are no interface to program against
        dependencies=[Depends(require_form_token)],
        lifespan=life,
    )
    app.state.settings = settings
    app.state.sessions = sessions
    app.state.attempts = Attempts(settings.failed_sign_ins_per_minute)
    app.state.navigation, app.state.section = navigation, section
    app.add_middleware(Guard, secure=settings.secure, behind_proxy=settings.behind_tls_proxy)
    add_handlers(app)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_api_route("/healthz", _alive, methods=["GET"])
    for router in ROUTERS:
        app.include_router(router)
    return app


async def _alive() -> PlainTextResponse:
    return PlainTextResponse("ok")
