"""What `graft up` tells its services: where everything of the home lies, which ports and which store, and where each comes from.

Owns their environment. Does not own their settings: what is not said here, they read themselves (`graftwork.config`).
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from graftwork.backbone import resolve
from graftwork.config.file import ConfigFile
from graftwork.local.console_process import NO_CONSOLE
from graftwork.local.console_process import environment as console_environment
from graftwork.local.home import Home, ServiceName

BY_UP = "graft up"
"""The source of what an operator does not choose."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """What `graft up` was told; everything else comes from the environment (`GRAFT_*`), the file, or its default.

    Attributes:
        backbone: name, folder or Hugging Face id.
        store_url: where adapters live; None = the home's own folder.
        trainer_port, serving_port, http_port: 0 takes any free port; the last is the OpenAI-compatible API's.
        console_port: 0 takes any free port, -1 is without a console.
        config: the settings file, which the services read too.
    """

    backbone: str = "graft-mini"
    store_url: str | None = None
    trainer_port: int = 0
    serving_port: int = 0
    http_port: int = 0
    console_port: int = NO_CONSOLE
    config: ConfigFile = field(default_factory=ConfigFile)


def environment(home: Home, settings: FleetSettings) -> dict[str, str]:
    """Returns the services' environment: ours, plus where everything lies, and where the trainer finds the serving service."""
    return {**_places(home, settings), **os.environ, **_forced(home, settings)}


def origins(home: Home, settings: FleetSettings) -> dict[str, str]:
    """Returns where the variables come from that nobody else set, for people."""
    made = {name: BY_UP for name in _places(home, settings) if name not in os.environ}
    for name in _forced(home, settings) | console_environment(home, settings.console_port, None):
        if _is_own(name):
            made[name] = BY_UP
        elif name not in os.environ:
            made[name] = BY_UP if name == "GRAFT_STORE_URL" else "default"
    return made


def unused(home: Home, settings: FleetSettings) -> list[str]:
    """Returns a sentence for each setting that somebody set in vain, because `graft up` has its own."""
    lines = []
    for name, value in (_forced(home, settings) | console_environment(home, settings.console_port, None)).items():
        if _is_own(name) and os.environ.get(name, value) != value:
            lines.append(f"{name} is not used: graft up has its own, {value}")
    for section, key in (("shared", "operator_key_file"), ("trainer", "address_file"), ("serving", "address_file")):
        if settings.config.has(section, key):
            lines.append(f"{settings.config.place(section, key)} is not used: graft up has its own")
    return lines


def lock_file(home: Home, settings: FleetSettings, service: ServiceName) -> Path:
    """Returns what a service holds for its whole life; its folder may be another than the home's."""
    section, key = {ServiceName.TRAINER: ("trainer", "state_dir"), ServiceName.SERVING: ("serving", "cache_dir")}[
        service
    ]
    folder = environment(home, settings).get(f"GRAFT_{section}_{key}".upper())
    if folder is None:
        folder = str(settings.config.path_of(str(settings.config.sections[section][key])))
    return Path(folder).expanduser() / "lock"


def _is_own(variable: str) -> bool:
    return variable == "GRAFT_OPERATOR_KEY_FILE" or variable.endswith("_ADDRESS_FILE")


def _places(home: Home, settings: FleetSettings) -> dict[str, str]:
    """Folders of the home and the probe's way to the serving service, unless the environment or the file names others."""
    places = {
        ("trainer", "probe_address_file"): str(home.address_file(ServiceName.SERVING)),
        ("trainer", "state_dir"): str(home.state(ServiceName.TRAINER)),
        ("serving", "cache_dir"): str(home.state(ServiceName.SERVING) / "cache"),
    }
    return {
        f"GRAFT_{section}_{key}".upper(): value
        for (section, key), value in places.items()
        if not settings.config.has(section, key)
    }


def _forced(home: Home, settings: FleetSettings) -> dict[str, str]:
    """What `graft` itself goes by, so that no other place can say otherwise."""
    return {
        "GRAFT_STORE_URL": settings.store_url or home.store_url,
        "GRAFT_BACKBONE": resolve(settings.backbone),
        "GRAFT_OPERATOR_KEY_FILE": str(home.operator_key_file),
        "GRAFT_TRAINER_ADDRESS_FILE": str(home.address_file(ServiceName.TRAINER)),
        "GRAFT_TRAINER_PORT": str(settings.trainer_port),
        "GRAFT_SERVING_ADDRESS_FILE": str(home.address_file(ServiceName.SERVING)),
        "GRAFT_SERVING_PORT": str(settings.serving_port),
        "GRAFT_SERVING_HTTP_ADDRESS_FILE": str(home.http_address_file),
        "GRAFT_SERVING_HTTP_PORT": str(settings.http_port),
    }
