"""Settings of `python -m adapter_store`: `GRAFT_REGISTRY_*` and [registry] in the file, and what services share
(`graftwork.config`, which reads all of it)."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from graftwork.config import ServiceSettings


class RegistrySettings(ServiceSettings):
    """All settings of `python -m adapter_store`."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_REGISTRY_")
    section: ClassVar[str] = "registry"

    store_url: str = Field(validation_alias="GRAFT_STORE_URL")
    """`file:///path` or `s3://bucket/prefix?endpoint=...`; what `adapter_store.open_store` takes."""
    backbone: str = Field(default="graft-mini", validation_alias="GRAFT_BACKBONE")
    """Folder of the backbone that registered adapters must fit; graft-mini is the one that ships with the package."""
    operator_key_file: Path = Field(validation_alias="GRAFT_OPERATOR_KEY_FILE")
    """File with the operator's key."""

    host: str = "127.0.0.1"
    """Address that gRPC listens on."""
    port: int = Field(default=0, ge=0, le=65535)
    """0 takes any free port; read it from `address_file`."""
    address_file: Path | None = None
    """Where to write `host:port` once bound."""
    metrics_host: str = "127.0.0.1"
    """Address that /metrics listens on."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Where /metrics is shown over HTTP, without a key; unset shows none, 0 takes any free port (the log tells which)."""
    auth_failures_per_minute: int = Field(default=60, ge=0)
    """Wrong keys that one address may bring in a minute before it is held back; 0 sets no limit."""
    tls_certificate: Path | None = None
    """PEM file of the service's certificate; without one it speaks plain text."""
    tls_key: Path | None = None
    """PEM file of its private key."""
    tls_client_ca: Path | None = None
    """PEM file of the authority that must have signed callers' certificates (mTLS); unset asks for none."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""

    signing_key_file: Path | None = None
    """Ed25519 private key (`graft key create`) that registered adapters are signed with; unset signs none."""
    state_dir: Path
    """Adapters on their way in. One registry per folder: it removes what an earlier one left."""
