"""Settings of the console process, checked once at start: `GRAFT_CONSOLE_*` and [console] in the file, and what services share
(`graftwork.config`, which reads all of it)."""

import ipaddress
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from graftwork.config import ServiceSettings, Unit
from graftwork.rpc.tls import TlsFiles, tls_files

_NOWHERE = "unix:/nonexistent-{}"
"""Dials nothing: a page that needs a service which is not up says so, and the others work."""


class ConsoleSettings(ServiceSettings):
    """All settings of `python -m graftwork.console`."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_CONSOLE_")
    section: ClassVar[str] = "console"

    host: str = "127.0.0.1"
    """Address that pages are served on; another than this machine's own needs TLS."""
    port: int = Field(default=0, ge=0, le=65535)
    """0 takes any free port; `address_file` tells which."""
    address_file: Path | None = None
    """`host:port` is written here once the console listens."""

    trainer: str = ""
    """`host:port` of the trainer; empty: what `trainer_address_file` says."""
    trainer_address_file: Path | None = None
    """Read again for each request, since a service that is started again may have another port."""
    serving: str = ""
    """`host:port` of the serving service; empty: what `serving_address_file` says."""
    serving_address_file: Path | None = None
    """Read again for each request, as the trainer's."""
    tls_ca: Path | None = None
    """PEM file of the authority that signed the services' certificates; unset speaks plain text to them."""

    tls_certificate: Path | None = None
    """PEM file of the certificate for browsers; without one the console speaks plain HTTP, and listens on this machine only."""
    tls_key: Path | None = None
    """PEM file of its private key."""
    behind_tls_proxy: bool = False
    """A proxy before the console speaks TLS to browsers: allows another host without a certificate, and marks cookies Secure."""

    idle_seconds: float = Field(default=1800.0, gt=0)
    """Without a page asked for, a session ends after so long; pages that refresh themselves do not count."""
    session_seconds: float = Field(default=43200.0, gt=0)
    """A session ends after so long in any case."""
    max_sessions: Annotated[int, Unit("sessions")] = Field(default=1000, ge=1)
    """At once; then the one that was idle longest ends."""
    failed_sign_ins_per_minute: int = Field(default=10, ge=1)
    """From one address; more are refused without asking the services."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""

    @model_validator(mode="after")
    def _keys_do_not_cross_a_network_in_the_clear(self) -> Self:
        if self.tls_key and not self.tls_certificate:
            raise ValueError("tls_key without tls_certificate")
        if not (_is_loopback(self.host) or self.tls_certificate or self.behind_tls_proxy):
            raise ValueError(
                f"on host {self.host} visitors' keys would cross the network unencrypted: set tls_certificate and "
                f"tls_key, or behind_tls_proxy=true where a proxy speaks TLS"
            )
        return self

    @property
    def secure(self) -> bool:
        """Whether browsers speak TLS to us, or to a proxy before us."""
        return self.behind_tls_proxy or self.tls_certificate is not None

    def tls(self) -> TlsFiles | None:
        """Returns the files to serve HTTPS with. Raises TlsIncomplete for one without the other."""
        return tls_files(self.tls_certificate, self.tls_key, None)

    def addresses(self) -> tuple[str, str]:
        """Returns where the trainer and the serving service are now."""
        return (
            self.trainer or _written(self.trainer_address_file) or _NOWHERE.format("trainer"),
            self.serving or _written(self.serving_address_file) or _NOWHERE.format("serving"),
        )


def _written(file: Path | None) -> str:
    try:
        return file.read_text().strip() if file else ""
    except FileNotFoundError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
