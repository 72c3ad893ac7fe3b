"""Protobuf to domain and back. The only module of serving, with the servicer, that knows message types."""

from google.protobuf.timestamp_pb2 import Timestamp

from adapter_store.names import NOBODY, TenantName
from graftwork.rpc.auth import Principal
from graftwork.v1 import common_pb2, serving_pb2
from serving_service.core.errors import InvalidRequest
from serving_service.core.generation import Call, Event, Finished, Route, Scores, Started, Text
from serving_service.core.residency import ResidentAdapter
from serving_service.core.sampling import SamplingWish
from serving_service.engine.protocol import Message, Prompt, Tier, TokenIds

_ROUTES = {
    Route.BASE: serving_pb2.ROUTE_BASE,
    Route.SWAPPED: serving_pb2.ROUTE_SWAPPED,
    Route.MERGED: serving_pb2.ROUTE_MERGED,
}
_TIERS = {
    None: serving_pb2.TIER_UNSPECIFIED,
    Tier.STORE: serving_pb2.TIER_STORE,
    Tier.DISK: serving_pb2.TIER_DISK,
    Tier.HOST: serving_pb2.TIER_HOST,
    Tier.DEVICE: serving_pb2.TIER_DEVICE,
}


def tenant_of(parent: str, model: str, principal: Principal) -> tuple[str, str]:
    """Returns whose request this is, and below which tenant its model is looked up.

    Both are `parent`, or the key's own tenant when it is empty; "" for an operator on the base. Another tenant's model is
    looked up below NOBODY: missed like one of the caller's own that does not exist, on the caller's account.

    Raises:
        NotVisible: `parent` is another tenant, and the base is asked for. InvalidRequest: an operator named an adapter and no tenant.
    """
    if parent:
        tenant = TenantName.parse(parent).tenant
        if model and not principal.may_name(tenant):
            return principal.tenant or "", NOBODY
        principal.require_tenant(tenant)
        return tenant, tenant
    if principal.tenant is None and model:
        raise InvalidRequest("parent is empty: with an operator's key say whose adapter it is, 'tenants/{tenant}'")
    return principal.tenant or "", principal.tenant or ""


def call_of(request: serving_pb2.GenerateRequest, tenant: str, owner: str) -> Call:
    """Reads a GenerateRequest; raises InvalidRequest when it has no input."""
    which = request.WhichOneof("input")
    if which is None:
        raise InvalidRequest("input is missing: send prompt, chat or tokens")
    prompt: Prompt = request.prompt
    if which == "chat":
        prompt = tuple(Message(message.role, message.content) for message in request.chat.messages)
    elif which == "tokens":
        prompt = TokenIds(tuple(request.tokens.ids))
    sampling = request.sampling
    return Call(
        tenant=tenant,
        owner=owner,
        model=request.model,
        prompt=prompt,
        sampling=SamplingWish(
            temperature=sampling.temperature if sampling.HasField("temperature") else None,
            top_p=sampling.top_p if sampling.HasField("top_p") else None,
            top_k=sampling.top_k if sampling.HasField("top_k") else None,
            seed=sampling.seed if sampling.HasField("seed") else None,
            max_tokens=sampling.max_tokens if sampling.HasField("max_tokens") else None,
            stop=tuple(sampling.stop),
            logprobs=request.logprobs,
            prompt_logprobs=request.prompt_logprobs,
        ),
    )


def response_of(event: Event) -> serving_pb2.GenerateResponse:
    """Writes one event of a stream."""
    match event:
        case Started():
            started = serving_pb2.GenerateStarted(
                request_id=event.request_id, version=event.version, route=_ROUTES[event.route], tier=_TIERS[event.tier]
            )
            return serving_pb2.GenerateResponse(started=started)
        case Text():
            return serving_pb2.GenerateResponse(text=event.text)
        case Scores():
            scores = serving_pb2.TokenScores(
                of_prompt=event.of_prompt, token_ids=event.scores.token_ids, logprobs=event.scores.logprobs
            )
            return serving_pb2.GenerateResponse(scores=scores)
        case Finished():
            return serving_pb2.GenerateResponse(finished=_finished(event))


def _finished(event: Finished) -> serving_pb2.GenerateFinished:
    timings = event.timings
    return serving_pb2.GenerateFinished(
        finish_reason=event.finish_reason,
        usage=common_pb2.Usage(prompt_tokens=event.prompt_tokens, completion_tokens=event.completion_tokens),
        timings=serving_pb2.Timings(
            queue_ms=timings.queue_ms,
            load_ms=timings.load_ms,
            first_token_ms=timings.first_token_ms,
            total_ms=timings.total_ms,
        ),
    )


def residency_of(row: ResidentAdapter) -> serving_pb2.Residency:
    """Writes one resident adapter; `last_use_time` stays unset for one that was adopted and never used."""
    message = serving_pb2.Residency(
        tenant=row.tenant,
        adapter=row.adapter,
        version=row.version,
        tier=_TIERS[row.tier],
        disk_bytes=row.disk_bytes,
        users=row.users,
        uses=row.uses,
        load_ms=row.load_ms,
    )
    if row.last_use is not None:
        stamp = Timestamp()
        stamp.FromDatetime(row.last_use)
        message.last_use_time.CopyFrom(stamp)
    return message
