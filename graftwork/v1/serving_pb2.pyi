import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from graftwork.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Route(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROUTE_UNSPECIFIED: _ClassVar[Route]
    ROUTE_BASE: _ClassVar[Route]
    ROUTE_SWAPPED: _ClassVar[Route]
    ROUTE_MERGED: _ClassVar[Route]

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_STORE: _ClassVar[Tier]
    TIER_DISK: _ClassVar[Tier]
    TIER_HOST: _ClassVar[Tier]
    TIER_DEVICE: _ClassVar[Tier]

class MergedState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MERGED_STATE_UNSPECIFIED: _ClassVar[MergedState]
    MERGED_STATE_WANTED: _ClassVar[MergedState]
    MERGED_STATE_MERGING: _ClassVar[MergedState]
    MERGED_STATE_STARTING: _ClassVar[MergedState]
    MERGED_STATE_PROBING: _ClassVar[MergedState]
    MERGED_STATE_SERVING: _ClassVar[MergedState]
    MERGED_STATE_DRAINING: _ClassVar[MergedState]
    MERGED_STATE_GONE: _ClassVar[MergedState]
ROUTE_UNSPECIFIED: Route
ROUTE_BASE: Route
ROUTE_SWAPPED: Route
ROUTE_MERGED: Route
TIER_UNSPECIFIED: Tier
TIER_STORE: Tier
TIER_DISK: Tier
TIER_HOST: Tier
TIER_DEVICE: Tier
MERGED_STATE_UNSPECIFIED: MergedState
MERGED_STATE_WANTED: MergedState
MERGED_STATE_MERGING: MergedState
MERGED_STATE_STARTING: MergedState
MERGED_STATE_PROBING: MergedState
MERGED_STATE_SERVING: MergedState
MERGED_STATE_DRAINING: MergedState
MERGED_STATE_GONE: MergedState

class Message(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class Messages(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    def __init__(self, messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "seed", "max_tokens", "stop", "n", "frequency_penalty", "presence_penalty", "repetition_penalty", "min_p", "ignore_eos", "json_schema", "json_object", "regex", "choices")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    JSON_OBJECT_FIELD_NUMBER: _ClassVar[int]
    REGEX_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    seed: int
    max_tokens: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    n: int
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    min_p: float
    ignore_eos: bool
    json_schema: str
    json_object: bool
    regex: str
    choices: Choices
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., seed: _Optional[int] = ..., max_tokens: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., n: _Optional[int] = ..., frequency_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., min_p: _Optional[float] = ..., ignore_eos: bool = ..., json_schema: _Optional[str] = ..., json_object: bool = ..., regex: _Optional[str] = ..., choices: _Optional[_Union[Choices, _Mapping]] = ...) -> None: ...

class Choices(_message.Message):
    __slots__ = ("texts",)
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, texts: _Optional[_Iterable[str]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("parent", "model", "prompt", "chat", "tokens", "sampling", "logprobs", "prompt_logprobs", "top_logprobs")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    parent: str
    model: str
    prompt: str
    chat: Messages
    tokens: TokenIds
    sampling: Sampling
    logprobs: bool
    prompt_logprobs: bool
    top_logprobs: int
    def __init__(self, parent: _Optional[str] = ..., model: _Optional[str] = ..., prompt: _Optional[str] = ..., chat: _Optional[_Union[Messages, _Mapping]] = ..., tokens: _Optional[_Union[TokenIds, _Mapping]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., logprobs: bool = ..., prompt_logprobs: bool = ..., top_logprobs: _Optional[int] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("started", "text", "finished", "scores", "index")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    started: GenerateStarted
    text: str
    finished: GenerateFinished
    scores: TokenScores
    index: int
    def __init__(self, started: _Optional[_Union[GenerateStarted, _Mapping]] = ..., text: _Optional[str] = ..., finished: _Optional[_Union[GenerateFinished, _Mapping]] = ..., scores: _Optional[_Union[TokenScores, _Mapping]] = ..., index: _Optional[int] = ...) -> None: ...

class TokenScores(_message.Message):
    __slots__ = ("of_prompt", "token_ids", "logprobs", "top")
    OF_PROMPT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    of_prompt: bool
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    top: _containers.RepeatedCompositeFieldContainer[TopScores]
    def __init__(self, of_prompt: bool = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ..., top: _Optional[_Iterable[_Union[TopScores, _Mapping]]] = ...) -> None: ...

class TopScores(_message.Message):
    __slots__ = ("token_ids", "logprobs")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class GenerateStarted(_message.Message):
    __slots__ = ("request_id", "version", "route", "tier")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    version: str
    route: Route
    tier: Tier
    def __init__(self, request_id: _Optional[str] = ..., version: _Optional[str] = ..., route: _Optional[_Union[Route, str]] = ..., tier: _Optional[_Union[Tier, str]] = ...) -> None: ...

class GenerateFinished(_message.Message):
    __slots__ = ("finish_reason", "usage", "timings")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    finish_reason: str
    usage: _common_pb2.Usage
    timings: Timings
    def __init__(self, finish_reason: _Optional[str] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_ms", "load_ms", "first_token_ms", "total_ms")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    LOAD_MS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    load_ms: float
    first_token_ms: float
    total_ms: float
    def __init__(self, queue_ms: _Optional[float] = ..., load_ms: _Optional[float] = ..., first_token_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...

class GetServingInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServingInfo(_message.Message):
    __slots__ = ("version", "base_model", "base_digest", "max_loras", "max_lora_rank", "max_model_len", "ready", "model", "store", "draining")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MAX_LORAS_FIELD_NUMBER: _ClassVar[int]
    MAX_LORA_RANK_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    version: str
    base_model: str
    base_digest: str
    max_loras: int
    max_lora_rank: int
    max_model_len: int
    ready: bool
    model: PartState
    store: PartState
    draining: PartState
    def __init__(self, version: _Optional[str] = ..., base_model: _Optional[str] = ..., base_digest: _Optional[str] = ..., max_loras: _Optional[int] = ..., max_lora_rank: _Optional[int] = ..., max_model_len: _Optional[int] = ..., ready: bool = ..., model: _Optional[_Union[PartState, _Mapping]] = ..., store: _Optional[_Union[PartState, _Mapping]] = ..., draining: _Optional[_Union[PartState, _Mapping]] = ...) -> None: ...

class PartState(_message.Message):
    __slots__ = ("state", "since", "cause")
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    state: str
    since: _timestamp_pb2.Timestamp
    cause: str
    def __init__(self, state: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cause: _Optional[str] = ...) -> None: ...

class GetTrafficRequest(_message.Message):
    __slots__ = ("parent", "series")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    parent: str
    series: bool
    def __init__(self, parent: _Optional[str] = ..., series: bool = ...) -> None: ...

class Traffic(_message.Message):
    __slots__ = ("start_time", "total", "tenants", "left_out")
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    start_time: _timestamp_pb2.Timestamp
    total: TenantTraffic
    tenants: _containers.RepeatedCompositeFieldContainer[TenantTraffic]
    left_out: bool
    def __init__(self, start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., total: _Optional[_Union[TenantTraffic, _Mapping]] = ..., tenants: _Optional[_Iterable[_Union[TenantTraffic, _Mapping]]] = ..., left_out: bool = ...) -> None: ...

class TenantTraffic(_message.Message):
    __slots__ = ("tenant", "running", "waiting", "windows", "recent", "hour")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    HOUR_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    running: int
    waiting: int
    windows: _containers.RepeatedCompositeFieldContainer[TrafficWindow]
    recent: TrafficSeries
    hour: TrafficSeries
    def __init__(self, tenant: _Optional[str] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., windows: _Optional[_Iterable[_Union[TrafficWindow, _Mapping]]] = ..., recent: _Optional[_Union[TrafficSeries, _Mapping]] = ..., hour: _Optional[_Union[TrafficSeries, _Mapping]] = ...) -> None: ...

class TrafficWindow(_message.Message):
    __slots__ = ("minutes", "seconds", "requests", "answered", "cancelled", "failed", "rejected", "rejections", "prompt_tokens", "completion_tokens", "first_token", "whole_answer")
    class RejectionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MINUTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WHOLE_ANSWER_FIELD_NUMBER: _ClassVar[int]
    minutes: int
    seconds: float
    requests: int
    answered: int
    cancelled: int
    failed: int
    rejected: int
    rejections: _containers.ScalarMap[str, int]
    prompt_tokens: int
    completion_tokens: int
    first_token: Percentiles
    whole_answer: Percentiles
    def __init__(self, minutes: _Optional[int] = ..., seconds: _Optional[float] = ..., requests: _Optional[int] = ..., answered: _Optional[int] = ..., cancelled: _Optional[int] = ..., failed: _Optional[int] = ..., rejected: _Optional[int] = ..., rejections: _Optional[_Mapping[str, int]] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., first_token: _Optional[_Union[Percentiles, _Mapping]] = ..., whole_answer: _Optional[_Union[Percentiles, _Mapping]] = ...) -> None: ...

class Percentiles(_message.Message):
    __slots__ = ("count", "p50_ms", "p95_ms")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P95_MS_FIELD_NUMBER: _ClassVar[int]
    count: int
    p50_ms: float
    p95_ms: float
    def __init__(self, count: _Optional[int] = ..., p50_ms: _Optional[float] = ..., p95_ms: _Optional[float] = ...) -> None: ...

class TrafficSeries(_message.Message):
    __slots__ = ("step_seconds", "requests", "rejected", "prompt_tokens", "completion_tokens", "first_token_p50_ms", "first_token_p95_ms", "whole_answer_p95_ms")
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_P50_MS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_P95_MS_FIELD_NUMBER: _ClassVar[int]
    WHOLE_ANSWER_P95_MS_FIELD_NUMBER: _ClassVar[int]
    step_seconds: float
    requests: _containers.RepeatedScalarFieldContainer[int]
    rejected: _containers.RepeatedScalarFieldContainer[int]
    prompt_tokens: _containers.RepeatedScalarFieldContainer[int]
    completion_tokens: _containers.RepeatedScalarFieldContainer[int]
    first_token_p50_ms: _containers.RepeatedScalarFieldContainer[float]
    first_token_p95_ms: _containers.RepeatedScalarFieldContainer[float]
    whole_answer_p95_ms: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, step_seconds: _Optional[float] = ..., requests: _Optional[_Iterable[int]] = ..., rejected: _Optional[_Iterable[int]] = ..., prompt_tokens: _Optional[_Iterable[int]] = ..., completion_tokens: _Optional[_Iterable[int]] = ..., first_token_p50_ms: _Optional[_Iterable[float]] = ..., first_token_p95_ms: _Optional[_Iterable[float]] = ..., whole_answer_p95_ms: _Optional[_Iterable[float]] = ...) -> None: ...

class ListResidencyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListResidencyResponse(_message.Message):
    __slots__ = ("adapters", "merged")
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    MERGED_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[Residency]
    merged: _containers.RepeatedCompositeFieldContainer[Merged]
    def __init__(self, adapters: _Optional[_Iterable[_Union[Residency, _Mapping]]] = ..., merged: _Optional[_Iterable[_Union[Merged, _Mapping]]] = ...) -> None: ...

class Residency(_message.Message):
    __slots__ = ("tenant", "adapter", "version", "tier", "disk_bytes", "users", "uses", "last_use_time", "disk_load_ms", "host_load_ms", "host_bytes", "pinned", "slot", "device_load_ms")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    LAST_USE_TIME_FIELD_NUMBER: _ClassVar[int]
    DISK_LOAD_MS_FIELD_NUMBER: _ClassVar[int]
    HOST_LOAD_MS_FIELD_NUMBER: _ClassVar[int]
    HOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_LOAD_MS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    adapter: str
    version: str
    tier: Tier
    disk_bytes: int
    users: int
    uses: int
    last_use_time: _timestamp_pb2.Timestamp
    disk_load_ms: float
    host_load_ms: float
    host_bytes: int
    pinned: bool
    slot: int
    device_load_ms: float
    def __init__(self, tenant: _Optional[str] = ..., adapter: _Optional[str] = ..., version: _Optional[str] = ..., tier: _Optional[_Union[Tier, str]] = ..., disk_bytes: _Optional[int] = ..., users: _Optional[int] = ..., uses: _Optional[int] = ..., last_use_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., disk_load_ms: _Optional[float] = ..., host_load_ms: _Optional[float] = ..., host_bytes: _Optional[int] = ..., pinned: bool = ..., slot: _Optional[int] = ..., device_load_ms: _Optional[float] = ...) -> None: ...

class PrefetchRequest(_message.Message):
    __slots__ = ("tenant", "model", "tier")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    model: str
    tier: Tier
    def __init__(self, tenant: _Optional[str] = ..., model: _Optional[str] = ..., tier: _Optional[_Union[Tier, str]] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("tenant", "model", "unpin")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    UNPIN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    model: str
    unpin: bool
    def __init__(self, tenant: _Optional[str] = ..., model: _Optional[str] = ..., unpin: bool = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("tenant", "model", "wait")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    model: str
    wait: bool
    def __init__(self, tenant: _Optional[str] = ..., model: _Optional[str] = ..., wait: bool = ...) -> None: ...

class DemoteRequest(_message.Message):
    __slots__ = ("tenant", "model")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    model: str
    def __init__(self, tenant: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class Merged(_message.Message):
    __slots__ = ("tenant", "adapter", "version", "state", "state_time", "bytes", "users", "uses", "last_use_time", "wanted_by", "why", "failures", "retry_seconds", "build_seconds", "promoted_because")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_TIME_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    LAST_USE_TIME_FIELD_NUMBER: _ClassVar[int]
    WANTED_BY_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    RETRY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BUILD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROMOTED_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    adapter: str
    version: str
    state: MergedState
    state_time: _timestamp_pb2.Timestamp
    bytes: int
    users: int
    uses: int
    last_use_time: _timestamp_pb2.Timestamp
    wanted_by: _containers.RepeatedScalarFieldContainer[str]
    why: str
    failures: int
    retry_seconds: float
    build_seconds: float
    promoted_because: str
    def __init__(self, tenant: _Optional[str] = ..., adapter: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[_Union[MergedState, str]] = ..., state_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., bytes: _Optional[int] = ..., users: _Optional[int] = ..., uses: _Optional[int] = ..., last_use_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., wanted_by: _Optional[_Iterable[str]] = ..., why: _Optional[str] = ..., failures: _Optional[int] = ..., retry_seconds: _Optional[float] = ..., build_seconds: _Optional[float] = ..., promoted_because: _Optional[str] = ...) -> None: ...

class EvictRequest(_message.Message):
    __slots__ = ("tenant", "adapter", "version")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    adapter: str
    version: str
    def __init__(self, tenant: _Optional[str] = ..., adapter: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class EvictResponse(_message.Message):
    __slots__ = ("freed_disk_bytes",)
    FREED_DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    freed_disk_bytes: int
    def __init__(self, freed_disk_bytes: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("resume", "wait_seconds")
    RESUME_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    resume: bool
    wait_seconds: float
    def __init__(self, resume: bool = ..., wait_seconds: _Optional[float] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("draining", "running")
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    draining: bool
    running: int
    def __init__(self, draining: bool = ..., running: _Optional[int] = ...) -> None: ...
