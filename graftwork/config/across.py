"""What settings mean together and on this machine: files that are not there, halves of pairs, services that do not fit.

Each service checks its own values; here is what no single value shows. A problem keeps a service from working, a doubt is
worth a look.
"""

import stat
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from graftwork.config.file import ConfigFile

_MUST_EXIST = (
    "tls_certificate",
    "tls_key",
    "tls_client_ca",
    "tls_ca",
    "probe_tls_ca",
    "probe_tls_certificate",
    "probe_tls_key",
    "trusted_keys",
    "signing_key_file",
)
_PORTS = {"trainer": ("port", "metrics_port"), "serving": ("port", "http_port"), "console": ("port",)}


def problems_across(made: Mapping[str, BaseModel], file: ConfigFile) -> tuple[list[str], list[str]]:
    """Returns problems and doubts, a sentence each.

    Args:
        made: the services' settings that are right in themselves, by section.
        file: that was read.
    """
    problems = [line for section, settings in made.items() for line in _files(section, settings)]
    problems += _ports(made)
    doubts = _ranks(made) + _readers(file)
    return problems, doubts


def _files(section: str, settings: BaseModel) -> list[str]:
    lines = []
    for name in _MUST_EXIST:
        path = getattr(settings, name, None)
        if isinstance(path, Path) and not path.exists():
            lines.append(f"[{section}] {name}: there is no {path}")
    for prefix in ("", "probe_"):
        names = (f"{prefix}tls_certificate", f"{prefix}tls_key")
        given = [name for name in names if getattr(settings, name, None)]
        if len(given) != 1:
            continue
        (have,) = given
        (lack,) = set(names) - {have}
        lines.append(f"[{section}] {have} without {lack}: TLS needs both")
    return lines


def _ports(made: Mapping[str, BaseModel]) -> list[str]:
    owners: dict[int, str] = {}
    lines = []
    for section, names in _PORTS.items():
        for name in names:
            port = getattr(made.get(section), name, None)
            if not port or port < 0:
                continue
            if port in owners:
                lines.append(f"[{section}] {name} is {port}, and so is {owners[port]}: give each its own")
            owners[port] = f"[{section}] {name}"
    return lines


def _ranks(made: Mapping[str, BaseModel]) -> list[str]:
    trained = getattr(made.get("trainer"), "max_rank", None)
    served = getattr(made.get("serving"), "max_lora_rank", None)
    if trained is None or served is None or trained <= served:
        return []
    return [
        f"[trainer] max_rank {trained} is above [serving] max_lora_rank {served}: "
        "adapters between them are trained and then refused"
    ]


def _readers(file: ConfigFile) -> list[str]:
    if file.path is None or not file.has("trainer", "database_url"):
        return []
    if stat.S_IMODE(file.path.stat().st_mode) & 0o077:
        return [
            f"{file.path} may hold a password (database_url) and others can read it: chmod 600, or use the variable"
        ]
    return []
