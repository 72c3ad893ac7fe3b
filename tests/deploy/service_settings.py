"""What a deployment sets, held against what the services take: names that no service knows would be silently without effect."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import AliasChoices
from pydantic_settings import BaseSettings

CLASSES = {
    "serving": ("serving_service.settings", "ServingSettings"),
    "trainer": ("trainer_service.settings", "TrainerSettings"),
    "console": ("graftwork.console.settings", "ConsoleSettings"),
}
CLIENTS = {
    "GRAFT_TRAINER",
    "GRAFT_SERVING",
    "GRAFT_HOME",
    "GRAFT_API_KEY",
    "GRAFT_TLS_CA",
    "GRAFT_TLS_CERTIFICATE",
    "GRAFT_TLS_KEY",
}
"""What `graft` reads in the same container."""


def parsed(service: str, environment: dict[str, str]) -> Any:
    """Returns the service's settings from an environment alone.

    Raises:
        AssertionError: a name that this service does not read.
        pydantic.ValidationError: a value that it does not take.
    """
    module, name = CLASSES[service]
    settings = getattr(importlib.import_module(module), name)
    ours = {key for key in environment if key.startswith("GRAFT_")}
    unknown = ours - _names(settings) - CLIENTS
    assert not unknown, f"{service} does not read {sorted(unknown)}"
    with _only(environment):
        return settings()


def _names(settings: type[BaseSettings]) -> set[str]:
    prefix = str(settings.model_config.get("env_prefix", ""))
    found = set()
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices):
            found |= {str(choice) for choice in alias.choices}
        else:
            found.add(str(alias) if alias else prefix + name.upper())
    return found


@contextmanager
def _only(environment: dict[str, str]) -> Iterator[None]:
    kept = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)
