"""Settings of the trainer process, from the environment, checked once at start.

`GRAFT_TRAINER_*` for what is the trainer's own; `GRAFT_STORE_URL`, `GRAFT_BACKBONE` and `GRAFT_OPERATOR_KEY_FILE` are shared
with the serving service.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from graftwork.backbone import DEFAULT_NAME


class TrainerSettings(BaseSettings):
    """All settings of `python -m trainer_service`."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_TRAINER_", extra="forbid", frozen=True)

    store_url: str = Field(validation_alias="GRAFT_STORE_URL")
    """The adapter store, `file:///...` or `s3://...`."""
    backbone: str = Field(default=DEFAULT_NAME, validation_alias="GRAFT_BACKBONE")
    """Folder or Hugging Face id of the base model."""
    operator_key_file: Path = Field(validation_alias="GRAFT_OPERATOR_KEY_FILE")
    """Holds the operator's key."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    """0 takes any free port; `address_file` tells which."""
    address_file: Path | None = None
    """`host:port` is written here once the service listens."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM files; without a certificate the service speaks plain text."""

    state_dir: Path
    """Database, jobs' folders and uploads in progress."""
    database_url: str = ""
    """SQLAlchemy URL; empty: SQLite in `state_dir`."""
    log_level: str = "INFO"

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default_factory=lambda: max(1, len(os.sched_getaffinity(0))), ge=1)
    """CPU threads of one worker; part of what makes a CPU's results repeatable."""
    max_running_jobs: int = Field(default=1, ge=1, le=64)
    max_attempts: int = Field(default=3, ge=1, le=20)
    backoff_seconds: float = Field(default=2.0, ge=0)
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    heartbeat_timeout: float = Field(default=60.0, gt=0)
    """Imports of the training libraries hold the interpreter for seconds on a busy machine."""
    kill_after: float = Field(default=5.0, gt=0)
    """Seconds between SIGTERM and SIGKILL."""
    checkpoint_seconds: float = Field(default=120.0, gt=0)
    """Work that a killed worker may lose inside an epoch."""
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens of one forward pass: bounds the memory of activations, not the batch."""
    max_dataset_bytes: int = Field(default=512 << 20, ge=1)
    max_rank: int = Field(default=64, ge=1)
    """Largest rank that the serving fleet takes."""

    def database(self) -> str:
        """Returns the database's URL."""
        return self.database_url or f"sqlite:///{self.state_dir / 'trainer.sqlite3'}"

    def training_device(self) -> Literal["cpu", "cuda"]:
        """Returns the device; `auto` looks for NVIDIA's driver, since this process must not load torch to ask."""
        if self.device != "auto":
            return self.device
        return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"
