"""What a setting is: its type in words, its unit, its default, whether it is secret.

Read from the settings classes, which say it once; docs/configuration.md, `graft config` and `--help` show it.
"""

import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


@dataclass(frozen=True, slots=True)
class Unit:
    """Annotates a number with what it counts, where the field's name does not end with it."""

    name: str


@dataclass(frozen=True, slots=True)
class Secret:
    """Annotates a setting whose value is never printed and cannot be given as a flag, which all users of a machine see."""


@dataclass(frozen=True, slots=True)
class Initial:
    """Annotates a setting whose default is found out at start, with words for it."""

    words: str


_UNITS = {
    "_seconds": "seconds",
    "_hours": "hours",
    "_bytes": "bytes",
    "_gib": "GiB",
    "_tokens": "tokens",
    "_tokens_per_minute": "tokens a minute",
    "_requests_per_minute": "requests a minute",
    "_failures_per_minute": "failures a minute",
    "failed_sign_ins_per_minute": "failures a minute",
    "_port": "port",
}
_POWERS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_USERINFO = re.compile(r"://[^/@\s]*@")


def _marker(field: FieldInfo, kind: type[Any]) -> Any:
    return next((found for found in field.metadata if isinstance(found, kind)), None)


def unit_of(name: str, field: FieldInfo) -> str:
    """Returns a number's unit; empty for what is no number, and for a number that nobody gave one."""
    if marked := _marker(field, Unit):
        return str(marked.name)
    if not is_number(field):
        return ""
    if name == "port":
        return "port"
    fitting = [suffix for suffix in _UNITS if name.endswith(suffix)]
    return _UNITS[max(fitting, key=len)] if fitting else ""


def is_secret(field: FieldInfo) -> bool:
    """Tells whether the value must never be printed."""
    return _marker(field, Secret) is not None


def _kinds(field: FieldInfo) -> tuple[Any, ...]:
    kind = field.annotation
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(part for part in typing.get_args(kind) if part is not type(None))
    return (kind,)


def is_number(field: FieldInfo) -> bool:
    """Tells whether the setting is a number."""
    return any(kind in (int, float) for kind in _kinds(field))


def is_path(field: FieldInfo) -> bool:
    """Tells whether the setting is a file or a folder."""
    return Path in _kinds(field)


def is_text(field: FieldInfo) -> bool:
    """Tells whether empty text may mean something."""
    return str in _kinds(field)


def type_of(field: FieldInfo) -> str:
    """Returns what may be written, in words: `whole number >= 1`, `auto, cpu or cuda`."""
    (kind, *_) = _kinds(field)
    if typing.get_origin(kind) is Literal:
        options = [str(option) for option in typing.get_args(kind)]
        return " or ".join(filter(None, (", ".join(options[:-1]), options[-1])))
    words = {int: "whole number", float: "number", bool: "true or false", Path: "path", str: "text"}[kind]
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if getattr(limit, name, None) is not None
    ]
    return " ".join((words, ", ".join(limits))) if limits else words


def default_of(field: FieldInfo) -> str:
    """Returns the default as one would write it; `required` where there is none, `unset` for None and empty text."""
    if initial := _marker(field, Initial):
        return str(initial.words)
    if field.default is PydanticUndefined:
        return "required"
    return written(field.default)


def written(value: object) -> str:
    """Returns a value as one would write it."""
    if value is None or value == "":
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown(value: object, secret: bool) -> str:
    """Returns a value for people: nothing of a secret, and no name and password of an address."""
    if secret and value not in (None, ""):
        return "(set, not shown)"
    return _USERINFO.sub("://***@", written(value))


def measured(value: str, unit: str) -> str:
    """Returns a written number with its unit; bytes by the greatest unit that divides them."""
    if not value[:1].isdigit() or unit in ("", "port", "rank"):
        return value
    if unit == "bytes" and value.isdigit():
        for name, size in _POWERS:
            if int(value) and int(value) % size == 0:
                return f"{int(value) // size} {name}"
    return f"{value} {unit}"


def own_variables(name: str, field: FieldInfo, prefix: str) -> tuple[str, ...]:
    """Returns the names of a setting's variables in the environment, the one that goes first at the front."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(choice) for choice in alias.choices)
    return (str(alias),) if alias else (f"{prefix}{name.upper()}",)
