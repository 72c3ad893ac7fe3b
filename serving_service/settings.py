"""Settings of the serving service: names, units, defaults and their checks.

`GRAFT_SERVING_*` and [serving] in the file, and what services share (`graftwork.config`, which reads all of it). The text below
each field is its documentation, in docs/configuration.md too.
"""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import SettingsConfigDict

from graftwork.config import ServiceSettings, Unit

MIB = 1024 * 1024
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank (its MaxLoRARanks)."""


class ServingSettings(ServiceSettings):
    """All settings of `python -m serving_service`."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_SERVING_")
    section: ClassVar[str] = "serving"

    store_url: str = Field(validation_alias="GRAFT_STORE_URL")
    """`file:///path` or `s3://bucket/prefix?endpoint=...`; what `adapter_store.open_store` takes."""
    backbone: str = Field(default="graft-mini", validation_alias="GRAFT_BACKBONE")
    """Folder or id of a Hugging Face causal LM; graft-mini is the one that ships with the package."""
    operator_key_file: Path = Field(validation_alias="GRAFT_OPERATOR_KEY_FILE")
    """File with the operator's key."""

    host: str = "127.0.0.1"
    """Address that gRPC listens on."""
    port: int = Field(default=0, ge=0, le=65535)
    """0 takes any free port; read it from `address_file`."""
    address_file: Path | None = None
    """Where to write `host:port` once bound."""
    http_host: str = "127.0.0.1"
    """Address that the OpenAI-compatible API listens on."""
    http_port: int = Field(default=0, ge=-1, le=65535)
    """Of the OpenAI-compatible API, /healthz, /readyz and /metrics. 0 takes any free port, -1 switches it off. TLS as below."""
    http_address_file: Path | None = None
    """Where to write `host:port` of it once bound."""
    metrics_public: bool | None = None
    """Whether /metrics needs no key; unset: only on a loopback address. With False it takes the operator's key."""
    metrics_tenants: Annotated[int, Unit("tenants")] = Field(default=50, ge=0, le=10_000)
    """Tenants that get a metrics label of their own, first come, first served; the rest share 'other'."""
    otlp_endpoint: str | None = Field(
        default=None, validation_alias=AliasChoices("GRAFT_SERVING_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    """Collector of traces, `http://host:4318`; unset makes none. vLLM's own spans go there too."""
    otlp_protocol: Literal["http/protobuf", "grpc"] = Field(
        default="http/protobuf",
        validation_alias=AliasChoices("GRAFT_SERVING_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"),
    )
    """How the collector is spoken to; with grpc its port is 4317 as a rule."""
    auth_failures_per_minute: int = Field(default=60, ge=0)
    """Wrong keys that one address may bring in a minute before it is held back; 0 sets no limit."""
    tls_certificate: Path | None = None
    """PEM file of the certificate of both listeners; without one they speak plain text."""
    tls_key: Path | None = None
    """PEM file of its private key."""
    tls_client_ca: Path | None = None
    """PEM file of the authority that must have signed callers' certificates (mTLS); unset asks for none."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""

    cache_dir: Path
    """Adapters on local disk, and temporary files. One service per folder: it deletes what it does not know."""
    disk_budget_bytes: int = Field(default=8 * 1024 * MIB, ge=1)
    """Most bytes of adapters on disk; what is worth least goes first, as in host memory."""

    trusted_keys: Path | None = None
    """PEM file with one or more public keys (`graft key create` writes one), or a folder of such files: only versions that one
    of them has signed are served. Read again when it changes. Unset serves unsigned versions too."""

    max_loras: Annotated[int, Unit("adapters")] = Field(default=0, ge=0)
    """Distinct adapters in one step. Each costs a slot of the largest rank on the device. 0 is as many as `slot_budget_bytes`
    holds, at least 4 and at most `max_num_seqs`."""
    slot_budget_bytes: int = Field(default=1024 * MIB, ge=1)
    """Most bytes of all slots where `max_loras` is 0, reckoned with 4 bytes a number."""
    max_adapters_in_flight: Annotated[int, Unit("adapters")] = Field(default=0, ge=0)
    """Above `max_loras`, adapters take turns on the slots while fewer requests than this run on adapters: a first token comes
    sooner, and an answer pauses while others have its slot. 0 is four times `max_loras`; as many as `max_loras`: no turns."""
    host_budget_bytes: int = Field(default=2 * 1024 * MIB, ge=1)
    """Most bytes of adapters in host memory, from where a slot is filled in milliseconds. What is worth least goes first: used
    seldom, quick to bring back, large. On a CPU memory for the next ten adapters is kept ready beside it, half of it at most."""
    max_lora_rank: Annotated[int, Unit("rank")] = 64
    """Largest rank, one of RANKS; smaller ones are padded to it. Not below what the store accepts (its MAX_RANK)."""
    lora_modules: str = ""
    """Linear layers that adapters may change, by name with commas between, `q_proj,v_proj`; empty is all that the backbone has. Fewer cost less of each step on
    a GPU, and less memory for slots. An adapter that changes others is refused when it is loaded."""
    max_model_len: Annotated[int, Unit("tokens")] = Field(default=0, ge=0)
    """Prompt and answer together, in tokens; 0 takes the model's own limit."""
    max_num_seqs: Annotated[int, Unit("requests")] = Field(default=32, ge=1)
    """Requests in one batch; more wait."""
    newcomer_seqs: Annotated[int, Unit("requests")] = Field(default=8, ge=0)
    """Further requests in one batch, so that nobody need wait for one of a flood's requests to end: half of them for tenants that
    run less than their share, all of them for tenants of whom nothing runs."""
    pieces_per_second: Annotated[int, Unit("pieces")] = Field(default=4000, ge=0)
    """In which an engine's answers are told, all together: above about so many an answer's next tokens come a few at a time, but no later
    than 40 ms after the last ones. First tokens, ends, and answers with log-probabilities, texts that end them or tools come as they are
    made. 0 sets no limit."""
    max_waiting: Annotated[int, Unit("requests")] = Field(default=1024, ge=0)
    """Requests that wait, of all tenants. When it is full, the newest one of whoever has most waiting is turned away."""
    max_overtakes: Annotated[int, Unit("requests")] = Field(default=16, ge=0)
    """Requests that an adapter in flight may admit past one that waits for a slot; then it drains. More keeps batches fuller
    where many adapters share few slots, fewer shortens the wait for a slot."""
    max_overtake_seconds: float = Field(default=0.5, ge=0)
    """For how long it may do so; whichever of the two is over first."""
    default_requests_per_minute: int = Field(default=0, ge=0)
    """Holds, like the other `default_*`, for tenants whose record says 0, and for those whose record could not be read; 0 is
    unlimited."""
    default_tokens_per_minute: int = Field(default=0, ge=0)
    """Prompt and answer together, of a tenant without a limit of its own; 0 is unlimited."""
    default_concurrency: Annotated[int, Unit("requests")] = Field(default=0, ge=0)
    """Requests that run at once, of a tenant without a limit of its own; 0 is unlimited."""
    default_queue_length: Annotated[int, Unit("requests")] = Field(default=0, ge=0)
    """Requests that wait, of a tenant without a limit of its own; 0 is unlimited."""
    fair_order: bool = True
    """False serves first come, first served, and keeps no places for newcomers: for comparison only."""
    merged_budget_bytes: int = Field(default=0, ge=0)
    """Most bytes that engines of merged weights may take beside the backbone; 0 merges nothing. Off unless set, because what
    memory is to spare is not known here, and too much would end the process that serves everybody. On a GPU it is the GPU's
    memory, and comes out of `gpu_memory_utilization`."""
    max_merged: Annotated[int, Unit("engines")] = Field(default=4, ge=1)
    """Most engines of merged weights at once: each is a process that competes for the same cores or device."""
    merged_start_seconds: float = Field(default=600.0, gt=0)
    """Most that the start of such an engine may take; then it is ended, and tried again after a while. Requests do not wait for it,
    but other engines' starts do."""
    merged_auto_tokens_per_minute: float = Field(default=3000.0, gt=0)
    """From so many tokens a minute, for two minutes, an alias with the route `auto` gets such an engine while there is room: its
    prompts' tokens and twice its answers'. With half of that for ten minutes, it loses it."""
    merged_auto_changes_per_hour: Annotated[int, Unit("changes")] = Field(default=6, ge=0)
    """Most promotions and demotions for the sake of traffic, in any hour: each costs a merge and the start of an engine. 0 serves
    `auto` as `swapped`."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Key/value cache on a CPU, in GiB. On a GPU `gpu_memory_utilization` rules."""
    merged_kv_cache_gib: float = Field(default=0.5, gt=0)
    """Key/value cache of each engine of merged weights, in GiB, on a GPU too. Must hold one request of `max_model_len`."""
    share_weights: bool = True
    """Engines of merged weights compute with the backbone's weights instead of a copy of their own: on a CPU they map its memory, on
    a GPU they open it through CUDA IPC. False is for the case that an operator suspects it."""
    gpu_memory_utilization: Annotated[float, Unit("share of the GPU's memory")] = Field(default=0.9, gt=0, le=1)
    """On a GPU: for weights, adapters, key/value cache and engines of merged weights together. Less where the trainer shares the GPU."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Of the backbone's weights: auto is the checkpoint's own, except on a CPU without native bfloat16: float32, measured 1.5 times as fast."""
    threads: Annotated[int, Unit("threads")] = Field(default=0, ge=0)
    """Compute threads on a CPU; 0 is every core that the process may use, fewer in small steps and while adapters are loaded."""

    max_prompt_bytes: int = Field(default=1 * MIB, ge=1)
    """Most bytes of one request's text, before it is tokenized."""
    max_messages: Annotated[int, Unit("messages")] = Field(default=256, ge=1)
    """Most turns of one chat."""
    constraint_seconds: float = Field(default=2.0, gt=0)
    """Most CPU seconds that preparing a JSON schema or a regular expression may take; tried out in a process of its own."""
    tool_parser: str = "hermes"
    """How the backbone writes tool calls: the name of one of vLLM's tool parsers; empty refuses tools."""

    drain_seconds: float = Field(default=20.0, ge=0)
    """How long a stopping service lets requests in flight finish."""

    @property
    def lora_layers(self) -> tuple[str, ...]:
        """`lora_modules`, one by one; empty is all."""
        return tuple(name for name in self.lora_modules.replace(" ", "").split(",") if name)

    @property
    def adapters_in_flight(self) -> int:
        """Most distinct adapters of which requests run."""
        return self.max_adapters_in_flight or 4 * self.max_loras

    @property
    def traces_url(self) -> str | None:
        """Where spans go, None for nowhere: OTLP over HTTP has a path of its own for them."""
        if self.otlp_endpoint is None or self.otlp_protocol == "grpc":
            return self.otlp_endpoint
        return self.otlp_endpoint.rstrip("/") + "/v1/traces"

    @property
    def metrics_need_key(self) -> bool:
        """Whether /metrics is for the operator only."""
        if self.metrics_public is not None:
            return not self.metrics_public
        try:
            return not ip_address(self.http_host).is_loopback
        except ValueError:
            return self.http_host != "localhost"

    @field_validator("max_lora_rank")
    @classmethod
    def _rank_of_vllm(cls, value: int) -> int:
        if value not in RANKS:
            raise ValueError(f"is {value}, must be one of {', '.join(map(str, RANKS))}")
        return value
