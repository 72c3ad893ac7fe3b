"""The playground: one prompt to the base, one version and another one, side by side, as their answers come.

Owns what a form asks for and what its page is told. Does not own the stream (`streams.py`). A prompt goes to the serving
service with the visitor's own key; it is written nowhere, and no address carries it.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from graftwork.client import Client
from graftwork.console.forms import decimal_number, whole_number
from graftwork.console.pages.adapters import owners
from graftwork.console.rendering import last_id, render, short
from graftwork.console.streams import Event, event_stream, generate
from graftwork.console.visitor import Changing
from graftwork.v1 import serving_pb2 as pb

router = APIRouter()
MOST_TOKENS = 4096
"""Of one answer; a longer one is the API's business."""
_MOST_ADAPTERS, _WITH_VERSIONS, _VERSIONS, _LOOKED_AT = 200, 20, 5, 100


@router.get("/playground")
def playground(request: Request, visitor: Changing, tenant: str = "", one: str = "", other: str = "") -> Response:
    tenants = owners(visitor)
    chosen = tenant or (tenants[0] if tenants else "")
    models = list(models_of(visitor.client, chosen)) if chosen else []
    if not one and models:
        one = next((name for name, _ in models if ":" in name), models[0][0])
    return render(
        request,
        visitor,
        "playground.html",
        tenants=tenants,
        chosen=chosen,
        models=models,
        one=one,
        other=other,
        most=MOST_TOKENS,
    )


@router.post("/playground/answer")
async def answer(
    visitor: Changing,
    prompt: Annotated[str, Form()],
    tenant: Annotated[str, Form()] = "",
    model: Annotated[str, Form()] = "",
    form: Annotated[str, Form()] = "chat",
    max_tokens: Annotated[str, Form()] = "128",
    temperature: Annotated[str, Form()] = "0",
    seed: Annotated[str, Form()] = "",
) -> Response:
    """Streams one answer: `started`, `text` pieces, `finished`. An empty `model` is the base."""
    visitor.sessions.find(visitor.session.id, touch=True)  # asked for by a script, but by a person's click
    sampling = pb.Sampling(max_tokens=whole_number("tokens at most", max_tokens, least=1, most=MOST_TOKENS))
    sampling.temperature = decimal_number("temperature", temperature, most=2, zero=True)
    if seed.strip():
        sampling.seed = whole_number("seed", seed)
    request = pb.GenerateRequest(parent=f"tenants/{tenant}" if tenant else "", model=model.strip(), sampling=sampling)
    if form == "chat":
        request.chat.messages.append(pb.Message(role="user", content=prompt))
    else:
        request.prompt = prompt
    return event_stream(visitor, _events(generate(visitor, request)))


def models_of(client: Client, tenant: str) -> Iterator[tuple[str, str]]:
    """Yields what a tenant may call, and how it is described: each adapter's aliases, and its newest versions."""
    for number, adapter in enumerate(islice(client.list_adapters(tenant), _MOST_ADAPTERS)):
        name = last_id(adapter.name)
        for alias in adapter.aliases:
            yield f"{name}:{last_id(alias.name)}", f"now {short(alias.version)}"
        if number < _WITH_VERSIONS:
            known = islice(client.list_versions(adapter.name), _LOOKED_AT)  # they come by digest
            for version in sorted(known, key=lambda found: -found.create_time.ToNanoseconds())[:_VERSIONS]:
                digest = last_id(version.name)
                yield f"{name}@{digest}", f"version {short(digest)}, {version.create_time.ToDatetime():%Y-%m-%d %H:%M}"


async def _events(pieces: AsyncGenerator[pb.GenerateResponse, None]) -> AsyncGenerator[Event, None]:
    async with aclosing(pieces):
        async for piece in pieces:
            match piece.WhichOneof("part"):
                case "started":
                    yield Event("started", _started(piece.started))
                case "text":
                    yield Event("text", piece.text)
                case "finished":
                    yield Event("finished", _finished(piece.finished))


def _started(started: pb.GenerateStarted) -> dict[str, str]:
    return {
        "version": short(started.version),
        "route": pb.Route.Name(started.route).removeprefix("ROUTE_").lower(),
        "tier": pb.Tier.Name(started.tier).removeprefix("TIER_").lower() if started.tier else "",
    }


def _finished(finished: pb.GenerateFinished) -> dict[str, str | float]:
    timings = finished.timings
    return {
        "reason": finished.finish_reason,
        "prompt_tokens": finished.usage.prompt_tokens,
        "completion_tokens": finished.usage.completion_tokens,
        "queue_ms": timings.queue_ms,
        "load_ms": timings.load_ms,
        "first_token_ms": timings.first_token_ms,
        "total_ms": timings.total_ms,
    }
