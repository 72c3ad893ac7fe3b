"""The routes of the OpenAI-compatible API: authenticate, read, delegate to the core, answer."""

import contextlib
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Path

from graftwork.rpc.access import Access, require_access
from graftwork.rpc.auth import Authenticator, Principal, bearer_token, set_principal
from graftwork.rpc.door import Door, door_of
from serving_service.api import convert
from serving_service.api.http import fields
from serving_service.api.http.body import read_json
from serving_service.api.http.models import model_of
from serving_service.api.http.stream import EventStream, Leaving
from serving_service.core.answers import Route
from serving_service.core.catalogue import Model
from serving_service.core.errors import InvalidRequest
from serving_service.core.generation import Call
from serving_service.core.opened import Opened
from serving_service.core.sampling import SamplingWish
from serving_service.core.service import Serving
from serving_service.core.tenant_policies import OPERATORS
from serving_service.engine.openai_protocol import Events, Kind, OpenAIEngine

OPENAI_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models")
TENANT_HEADER = "x-graft-tenant"
"""With an operator's key: whose request this is."""


class OpenAIRoutes:
    """Chat, completions and models.

    Args:
        serving: the core.
        engine: answers in OpenAI's form.
        authenticator: turns the bearer token into the caller; the door that gRPC has too, or what gets one.
    """

    def __init__(self, serving: Serving, engine: OpenAIEngine, authenticator: Authenticator | Door) -> None:
        self._serving, self._engine, self._door = serving, engine, door_of(authenticator)
        # Plain ones: FastAPI's own would look for dependencies and models that these do not have, before each first token.
        self.router = APIRouter(
            routes=[
                Path("/v1/chat/completions", self._chat, methods=["POST"]),
                Path("/v1/completions", self._completion, methods=["POST"]),
                Path("/v1/models", self._models, methods=["GET"]),
                Path("/v1/models/{name:path}", self._model, methods=["GET"]),
            ]
        )

    async def _caller(self, request: Request) -> Principal:
        token = bearer_token({"authorization": request.headers.get("authorization", "")})
        principal = await self._door.admit(token, request.client.host if request.client else "")
        set_principal(principal)
        request.state.caller = principal.tenant or principal.role.value
        return principal

    async def _chat(self, request: Request) -> Response:
        return await self._generate(Kind.CHAT, request)

    async def _completion(self, request: Request) -> Response:
        return await self._generate(Kind.COMPLETION, request)

    async def _generate(self, kind: Kind, request: Request) -> Response:
        principal = await self._caller(request)
        require_access(principal, Access.COMPUTE)
        body = fields.read(kind, await read_json(request), self._serving.limits, self._serving.max_model_len())
        model = self._model_text(body.get("model", ""))
        # As the caller wrote it, in the answer; the base by its name.
        body["model"] = model or self._serving.about().base_model
        tenant, owner = convert.tenant_of(_parent(request), model, principal)
        most = body.get("max_completion_tokens", body.get("max_tokens"))
        wish = SamplingWish(n=body.get("n"), max_tokens=most)
        size = int(request.headers.get("content-length", "0"))  # digits, or the server would not have taken it
        call = Call(tenant, model, None, wish, owner, account=principal.tenant or OPERATORS, prompt_bytes=size)
        held, leaving = contextlib.AsyncExitStack(), Leaving(request.receive)

        async def work() -> tuple[Opened, str | Events]:
            opened = await held.enter_async_context(self._serving.open(call))
            # Nothing is sent before the whole answer, or its first event, is there.
            answer = await opened.attempt(lambda: self._engine_of(opened).answer(kind, body, opened))
            if not isinstance(answer, str):
                held.push_async_callback(answer.aclose)  # also where the client has gone meanwhile
            return opened, answer

        try:
            opened, answer = await leaving.unless_gone(work())
        except BaseException as error:
            leaving.close()
            await held.__aexit__(type(error), error, error.__traceback__)  # so that it is seen why
            raise
        headers = _headers(opened)
        if not isinstance(answer, str):
            return EventStream(answer, held.aclose, headers, request.state.request_id, leaving)
        leaving.close()
        await held.aclose()
        return Response(answer, media_type="application/json", headers=headers)

    def _engine_of(self, opened: Opened) -> OpenAIEngine:
        # `MergedEngines.start`: they answer in OpenAI's form where the backbone's engine does.
        return cast(OpenAIEngine, opened.place.engine) if opened.route is Route.MERGED else self._engine

    def _model_text(self, model: Any) -> str:
        """The core's name for a model: empty for the base."""
        if not isinstance(model, str):
            raise InvalidRequest("model must be a text", "model")
        return "" if model == self._serving.about().base_model else model

    async def _models(self, request: Request) -> Response:
        principal = await self._caller(request)
        tenant, _ = convert.tenant_of(_parent(request), "", principal)
        models = [self._base(), *(await self._serving.models(tenant) if tenant else ())]
        return JSONResponse({"object": "list", "data": [self._shown(model, tenant) for model in models]})

    async def _model(self, request: Request) -> Response:
        principal = await self._caller(request)
        model = self._model_text(request.path_params["name"])
        tenant, owner = convert.tenant_of(_parent(request), model, principal)
        found = self._base()
        if model:
            found = Model(model, await self._serving.version_of(principal.tenant or OPERATORS, owner, model), None)
        return JSONResponse(self._shown(found, tenant))

    def _base(self) -> Model:
        return Model(self._serving.about().base_model, "", None)

    def _shown(self, model: Model, tenant: str) -> dict[str, Any]:
        about = self._serving.about()
        return model_of(model, tenant, about.base_model, about.max_model_len)


def _parent(request: Request) -> str:
    tenant = request.headers.get(TENANT_HEADER, "")
    return f"tenants/{tenant}" if tenant else ""


def _headers(opened: Opened) -> dict[str, str]:
    headers = {"x-graft-route": opened.route.value}
    if opened.tier is not None:
        headers |= {"x-graft-version": opened.version, "x-graft-tier": opened.tier.value}
    return headers
