"""Settings of the serving service: environment variables in, one frozen object out.

Owns names, defaults and their checks. `GRAFT_SERVING_*`, and without that prefix what both services share.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank (its MaxLoRARanks)."""


class ServingSettings(BaseSettings):
    """Everything that can be set; unknown keys are refused."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_SERVING_", frozen=True, extra="forbid", populate_by_name=True)

    store_url: str = Field(validation_alias="GRAFT_STORE_URL")
    """`file:///path` or `s3://bucket/prefix?endpoint=...`; what `adapter_store.open_store` takes."""
    backbone: str = Field(default="graft-mini", validation_alias="GRAFT_BACKBONE")
    """Folder or id of a Hugging Face causal LM; graft-mini is the one that ships with the package."""
    operator_key_file: Path = Field(validation_alias="GRAFT_OPERATOR_KEY_FILE")
    """File with the operator's key."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    """0 takes any free port; read it from `address_file`."""
    address_file: Path | None = None
    """Where to write `host:port` once bound."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM files; without a certificate the service speaks plain text, with a client CA it asks for mTLS."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    cache_dir: Path
    """Adapters on local disk. One service per folder: it deletes what it does not know."""
    disk_budget_bytes: int = Field(default=8 * 1024 * MIB, ge=1)
    """Most bytes of adapters on disk; least recently used ones that no request uses go first."""

    trusted_keys: Path | None = None
    """PEM file with one or more public keys (`graft key create` writes one), or a folder of such files: only versions that one
    of them has signed are served. Read again when it changes. Unset serves unsigned versions too."""

    max_loras: int = Field(default=4, ge=1)
    """Distinct adapters in one batch. Each costs a slot of the largest rank on the device."""
    max_cpu_loras: int = Field(default=64, ge=1)
    """Adapters kept in host memory; at least `max_loras`."""
    max_lora_rank: int = 64
    """Largest rank, one of RANKS; smaller ones are padded to it. Not below what the store accepts (its MAX_RANK)."""
    max_model_len: int = Field(default=0, ge=0)
    """Prompt and answer together, in tokens; 0 takes the model's own limit."""
    max_num_seqs: int = Field(default=32, ge=1)
    """Requests in one batch; more wait."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """Key/value cache on a CPU, in GiB. On a GPU `gpu_memory_utilization` rules."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto is the checkpoint's own, except on a CPU without native bfloat16: float32, measured 1.5 times as fast."""
    threads: int = Field(default=0, ge=0)
    """Compute threads on a CPU; 0 is every core that the process may use."""

    max_prompt_bytes: int = Field(default=1 * MIB, ge=1)
    """Most bytes of one request's text, before it is tokenized."""
    max_messages: int = Field(default=256, ge=1)
    """Most turns of one chat."""
    drain_seconds: float = Field(default=20.0, ge=0)
    """How long a stopping service lets requests in flight finish."""

    @field_validator("max_lora_rank")
    @classmethod
    def _rank_of_vllm(cls, value: int) -> int:
        if value not in RANKS:
            raise ValueError(f"is {value}, must be one of {', '.join(map(str, RANKS))}")
        return value
