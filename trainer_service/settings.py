"""Settings of the trainer process, checked once at start.

`GRAFT_TRAINER_*` and [trainer] in the file, and what services share (`graftwork.config`, which reads all of it). The text below
each field is its documentation, in docs/configuration.md too.
"""

import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from graftwork.backbone import DEFAULT_NAME
from graftwork.config import Initial, Secret, ServiceSettings, Unit
from trainer_service.core.recipe_values import PASS_TOKENS

_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")  # NVIDIA's, and the one of Windows' Linux


class TrainerSettings(ServiceSettings):
    """All settings of `python -m trainer_service`."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_TRAINER_")
    section: ClassVar[str] = "trainer"

    store_url: str = Field(validation_alias="GRAFT_STORE_URL")
    """The adapter store, `file:///...` or `s3://...`."""
    backbone: str = Field(default=DEFAULT_NAME, validation_alias="GRAFT_BACKBONE")
    """Folder or Hugging Face id of the base model."""
    operator_key_file: Path = Field(validation_alias="GRAFT_OPERATOR_KEY_FILE")
    """Holds the operator's key."""

    host: str = "127.0.0.1"
    """Address that gRPC listens on."""
    port: int = Field(default=0, ge=0, le=65535)
    """0 takes any free port; `address_file` tells which."""
    address_file: Path | None = None
    """`host:port` is written here once the service listens."""
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

    state_dir: Path
    """Database, jobs' folders, uploads in progress and temporary files."""
    database_url: Annotated[str, Secret()] = ""
    """`postgresql://user:password@host/name`; several trainers may share one. Empty: SQLite in `state_dir`."""
    jobs_dir: Path | None = None
    """Jobs' folders, with their checkpoints; default: in `state_dir`. Trainers that share a database should share this
    folder too: else a job that is taken over begins anew."""
    lease_seconds: float = Field(default=30.0, ge=5)
    """With a shared database: a trainer that is silent for so long loses its jobs to the others."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""
    signing_key_file: Path | None = None
    """Ed25519 private key (`graft key create`) that published and registered versions are signed with; unset signs none."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What jobs train on; auto takes the GPU where NVIDIA's driver is loaded."""
    threads: Annotated[int, Unit("threads"), Initial("every core that the process may use")] = Field(
        default_factory=lambda: max(1, len(os.sched_getaffinity(0))), ge=1
    )
    """CPU threads of one worker; part of what makes a CPU's results repeatable."""
    devices: Annotated[int, Unit("GPUs")] = Field(default=1, ge=1, le=64)
    """GPUs of this machine that one job trains on (data-parallel; the same effective batch)."""
    max_running_jobs: Annotated[int, Unit("jobs")] = Field(default=1, ge=1, le=64)
    """Jobs that train at once, each in a process of its own; their backbones share the device."""
    max_queued_jobs: Annotated[int, Unit("jobs")] = Field(default=1000, ge=1)
    """Jobs that any tenant may have waiting; a tenant's own limit may be smaller (`graft tenant limits`)."""
    max_attempts: Annotated[int, Unit("attempts")] = Field(default=3, ge=1, le=20)
    """Attempts in a row, without a new checkpoint between them, that may end in a system error."""
    max_interruptions: Annotated[int, Unit("attempts")] = Field(default=20, ge=1)
    """The same for workers that are killed from outside."""
    backoff_seconds: float = Field(default=2.0, ge=0)
    """Before the second attempt; each further one waits twice as long."""
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    """Between two signs of life of a worker."""
    heartbeat_timeout: Annotated[float, Unit("seconds")] = Field(default=60.0, gt=0)
    """A worker that is silent for so long is ended. Imports of the training libraries hold the interpreter for seconds on a busy
    machine."""
    kill_after: Annotated[float, Unit("seconds")] = Field(default=5.0, gt=0)
    """Between SIGTERM and SIGKILL."""
    checkpoint_seconds: float = Field(default=120.0, gt=0)
    """Work that a killed worker may lose inside an epoch."""
    keep_checkpoints_hours: float = Field(default=168.0, ge=0)
    """How long a job that failed or was cancelled can be resumed from its checkpoint."""
    store_patience_seconds: float = Field(default=30.0, ge=0)
    """How long a job waits on its device for a store that is away; then it makes room, and waits in the queue."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of one forward pass: bounds the memory of activations, not the batch. Unset: what suits the device."""
    max_dataset_bytes: int = Field(default=4 << 30, ge=1)
    """Most bytes of one uploaded data set."""
    max_rank: Annotated[int, Unit("rank")] = Field(default=64, ge=1)
    """Largest rank that the serving fleet takes."""
    serves_base: str = Field(default="", pattern=r"^[0-9a-f]{0,64}$")
    """Digest (or its first characters) of the backbone that the serving fleet runs; empty: the same as this trainer's."""
    serves_template: str = Field(default="", pattern=r"^[0-9a-f]{0,64}$")
    """sha256 of the chat template that the fleet's clients render prompts with; empty: they send messages."""

    probe: Literal["off", "when-available", "require"] = "when-available"
    """Whether an alias moves only after the serving service answered as the trainer's model does; `when-available`: not
    asked when there is no serving service, or none answers within `probe_wait_seconds`."""
    probe_address: str = ""
    """`host:port` of the serving service."""
    probe_address_file: Path | None = None
    """Or the file that it writes its address to."""
    probe_tls_ca: Path | None = None
    """PEM file of the authority that signed its certificate; none: plain text."""
    probe_tls_certificate: Path | None = None
    """PEM file of the certificate that the probe shows to a serving service that asks for a client's."""
    probe_tls_key: Path | None = None
    """PEM file of its private key."""
    probe_wait_seconds: float = Field(default=120.0, ge=0)
    """For how long the probe waits for a serving service that does not answer."""

    @field_validator("device")
    @classmethod
    def _a_gpu_must_be_there(cls, value: str) -> str:
        """Else the first job would find out, after its data was uploaded and looked through."""
        if value == "cuda" and not any(Path(driver).exists() for driver in _GPU_DRIVERS):
            raise ValueError(
                "is cuda, and no GPU's driver is loaded on this machine; set cpu or auto, or install the driver"
            )
        return value

    @model_validator(mode="after")
    def _probe_needs_a_place(self) -> Self:
        if self.probe == "require" and not (self.probe_address or self.probe_address_file):
            raise ValueError("probe=require needs probe_address or probe_address_file")
        return self

    def database(self) -> str:
        """Returns the database's URL."""
        return self.database_url or f"sqlite:///{self.state_dir / 'trainer.sqlite3'}"

    def jobs(self) -> Path:
        """Returns the folder of all jobs' folders."""
        return self.jobs_dir or self.state_dir / "jobs"

    def training_device(self) -> Literal["cpu", "cuda"]:
        """Returns the device; `auto` looks for NVIDIA's driver, since this process must not load torch to ask."""
        if self.device != "auto":
            return self.device
        return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"

    def tokens_of_a_pass(self) -> int:
        """Returns the setting, or what suits the device."""
        return self.micro_batch_tokens or PASS_TOKENS[self.training_device()]
