"""Protobuf to domain and back. The only module of serving, with the servicer, that knows message types."""

import time
from typing import Any

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from adapter_store.names import NOBODY, TenantName
from graftwork.rpc.auth import Principal
from graftwork.v1 import common_pb2, serving_pb2
from serving_service.core import constraints
from serving_service.core.adapter_entry import ResidentAdapter
from serving_service.core.answers import Event, Finished, Route, Scores, Started, Text
from serving_service.core.errors import InvalidRequest
from serving_service.core.fast_path.life import MergedRow, State
from serving_service.core.generation import Call
from serving_service.core.readiness import Part
from serving_service.core.sampling import SamplingWish
from serving_service.engine.protocol import Constraint, Message, Prompt, Tier, TokenIds

MOST_WAIT_S = 3600.0
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

_STATES = {
    State.WANTED: serving_pb2.MERGED_STATE_WANTED,
    State.MERGING: serving_pb2.MERGED_STATE_MERGING,
    State.STARTING: serving_pb2.MERGED_STATE_STARTING,
    State.PROBING: serving_pb2.MERGED_STATE_PROBING,
    State.SERVING: serving_pb2.MERGED_STATE_SERVING,
    State.DRAINING: serving_pb2.MERGED_STATE_DRAINING,
    State.GONE: serving_pb2.MERGED_STATE_GONE,
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


def call_of(
    request: serving_pb2.GenerateRequest,
    tenant: str,
    owner: str,
    *,
    account: str | None = None,
    deadline: float | None = None,
) -> Call:
    """Reads a GenerateRequest; raises InvalidRequest when it has no input. See `Call` for the arguments."""
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
        account=account,
        deadline=deadline,
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
            top_logprobs=request.top_logprobs,
            n=sampling.n if sampling.HasField("n") else None,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            repetition_penalty=sampling.repetition_penalty if sampling.HasField("repetition_penalty") else None,
            min_p=sampling.min_p,
            ignore_eos=sampling.ignore_eos,
            constraint=constraint_of(sampling),
        ),
    )


def deadline_of(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """When the caller's time is over, by `time.monotonic()`; None without a time limit."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def constraint_of(sampling: serving_pb2.Sampling) -> Constraint | None:
    """Reads what answers must be; raises InvalidRequest beyond the limits."""
    match sampling.WhichOneof("constraint"):
        case "json_schema":
            return constraints.json_schema(sampling.json_schema, "sampling.json_schema")
        case "regex":
            return constraints.regex(sampling.regex, "sampling.regex")
        case "choices":
            return constraints.choices(tuple(sampling.choices.texts), "sampling.choices")
        case "json_object" if sampling.json_object:
            return constraints.json_object()
        case _:
            return None


def response_of(event: Event) -> serving_pb2.GenerateResponse:
    """Writes one event of a stream."""
    match event:
        case Started():
            started = serving_pb2.GenerateStarted(
                request_id=event.request_id, version=event.version, route=_ROUTES[event.route], tier=_TIERS[event.tier]
            )
            return serving_pb2.GenerateResponse(started=started)
        case Text():
            return serving_pb2.GenerateResponse(text=event.text, index=event.index)
        case Scores():
            return serving_pb2.GenerateResponse(scores=_scores(event), index=event.index)
        case Finished():
            return serving_pb2.GenerateResponse(finished=_finished(event), index=event.index)


def _scores(event: Scores) -> serving_pb2.TokenScores:
    return serving_pb2.TokenScores(
        of_prompt=event.of_prompt,
        token_ids=event.scores.token_ids,
        logprobs=event.scores.logprobs,
        top=[
            serving_pb2.TopScores(token_ids=[number for number, _ in place], logprobs=[score for _, score in place])
            for place in event.scores.top
        ],
    )


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


def part_of(part: Part, principal: Principal) -> serving_pb2.PartState:
    """Writes a part's state. Its cause may name the store's places and other tenants: it is for operators and viewers."""
    message = serving_pb2.PartState(state=part.state, cause=part.cause if principal.oversees else "")
    message.since.FromDatetime(part.since)
    return message


def wait_of(seconds: float) -> float:
    """Reads how long a drain may wait. Raises InvalidRequest for what is no time, or more than an hour."""
    if not 0 <= seconds <= MOST_WAIT_S:  # nor what is no number
        raise InvalidRequest(f"wait_seconds is {seconds}; say 0 to {MOST_WAIT_S:.0f}", field="wait_seconds")
    return seconds


def tier_of(value: serving_pb2.Tier) -> Tier:
    """Reads the tier to fetch to; host memory when nothing is said.

    Raises:
        InvalidRequest: a number that is no tier.
    """
    if value == serving_pb2.TIER_UNSPECIFIED:
        return Tier.HOST
    for tier, number in _TIERS.items():
        if tier is not None and number == value:
            return tier
    raise InvalidRequest(f"tier is {value}; send TIER_DISK or TIER_HOST")


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
        disk_load_ms=row.loads.disk_ms,
        host_load_ms=row.loads.host_ms,
        device_load_ms=row.loads.device_ms,
        host_bytes=row.host_bytes,
        pinned=row.pinned,
        slot=row.slot,
    )
    if row.last_use is not None:
        stamp = Timestamp()
        stamp.FromDatetime(row.last_use)
        message.last_use_time.CopyFrom(stamp)
    return message


def merged_of(row: MergedRow) -> serving_pb2.Merged:
    """Writes one merged version; `last_use_time` stays unset for one that no request has used."""
    message = serving_pb2.Merged(
        tenant=row.tenant,
        adapter=row.adapter,
        version=row.version,
        state=_STATES[row.state],
        bytes=row.bytes,
        users=row.users,
        uses=row.uses,
        wanted_by=row.wanted_by,
        why=row.why,
        failures=row.failures,
        retry_seconds=row.retry_seconds,
        build_seconds=row.build_seconds,
        promoted_because=row.promoted_because,
    )
    message.state_time.FromDatetime(row.since)
    if row.last_use is not None:
        message.last_use_time.FromDatetime(row.last_use)
    return message
