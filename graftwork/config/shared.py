"""Settings that several services have in common: said once, in [store] or [shared], or once in the environment.

Owns those two sections. A service's own variable or key, where it has one, goes before what is shared.
"""

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from graftwork.backbone import DEFAULT_NAME


class StoreSection(BaseModel):
    """[store]: where adapters live."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    url: str = Field(default="", validation_alias="GRAFT_STORE_URL")
    """`file:///path` or `s3://bucket/prefix?endpoint=...`. `graft up` without it takes the home's `store/`; services that run
    alone need it. An S3 server's keys never stand here: see `AWS_*` in operations."""


class SharedSection(BaseModel):
    """[shared]: what services have in common."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    backbone: str = Field(default=DEFAULT_NAME, validation_alias="GRAFT_BACKBONE")
    """Folder or Hugging Face id (`org/name`, for the trainer also `org/name@revision`) of the frozen model; `graft-mini` is the
    one that ships with the package."""
    operator_key_file: Path | None = Field(default=None, validation_alias="GRAFT_OPERATOR_KEY_FILE")
    """File with the operator's key; read again when it changes. `graft up` makes and uses its home's own; services that run alone need it."""
    tls_ca: Path | None = Field(default=None, validation_alias="GRAFT_TLS_CA")
    """PEM file of the authority that signed the services' certificates: what `graft`, the console and the trainer's probe trust.
    Unset: they speak plain text."""
    tls_certificate: Path | None = Field(default=None, validation_alias="GRAFT_TLS_CERTIFICATE")
    """PEM file of the certificate that these callers show to services that ask for one (mTLS). A service's own certificate is in
    its own section."""
    tls_key: Path | None = Field(default=None, validation_alias="GRAFT_TLS_KEY")
    """PEM file of that certificate's private key."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", validation_alias="GRAFT_LOG_LEVEL")
    """Least level that is logged."""


SECTION_MODELS: dict[str, type[BaseModel]] = {"store": StoreSection, "shared": SharedSection}


@dataclass(frozen=True, slots=True)
class Shared:
    """Where a setting of several services stands.

    Attributes:
        section, key: in the file.
        variable: in the environment.
        own_key: whether a service may also have it in its own section and under its own prefix, which goes first.
    """

    section: str
    key: str
    variable: str
    own_key: bool = False


SHARED: MappingProxyType[str, Shared] = MappingProxyType(
    {
        "store_url": Shared("store", "url", "GRAFT_STORE_URL"),
        "backbone": Shared("shared", "backbone", "GRAFT_BACKBONE"),
        "operator_key_file": Shared("shared", "operator_key_file", "GRAFT_OPERATOR_KEY_FILE"),
        "tls_ca": Shared("shared", "tls_ca", "GRAFT_TLS_CA", own_key=True),
        "probe_tls_ca": Shared("shared", "tls_ca", "GRAFT_TLS_CA", own_key=True),
        "probe_tls_certificate": Shared("shared", "tls_certificate", "GRAFT_TLS_CERTIFICATE", own_key=True),
        "probe_tls_key": Shared("shared", "tls_key", "GRAFT_TLS_KEY", own_key=True),
        "log_level": Shared("shared", "log_level", "GRAFT_LOG_LEVEL", own_key=True),
    }
)
"""By the field's name in the services' classes."""

CLIENT_VARIABLES: MappingProxyType[str, str] = MappingProxyType(
    {
        "GRAFT_CONFIG": "The settings file; `graft --config` goes first. Unset: `graft.toml` in the home folder, where there is one.",
        "GRAFT_HOME": "Folder of all local state; `graft --home` goes first. Default: `~/.graftwork`.",
        "GRAFT_TRAINER": "`host:port` of the trainer, for `graft`. Default: what the home knows.",
        "GRAFT_SERVING": "`host:port` of the serving service, for `graft`. Default: what the home knows.",
        "GRAFT_API_KEY": "Key of whoever calls, an operator's or a tenant's. Default: the home's operator key. Never in a file of settings.",
        "GRAFT_TENANT": "Tenant that commands act for, where `--tenant` names none.",
    }
)
"""What only `graft` and the SDK read: no service has these."""
