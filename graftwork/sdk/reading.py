"""Reading the protocol's values: enumerations, times and structures as Python's own."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict

Kind = TypeVar("Kind", bound=StrEnum)


def read_enum(kind: type[Kind], wire: Any, value: int, prefix: str) -> Kind:
    """Returns an enumeration's value; `UNSPECIFIED` for one that a newer service knows and this SDK does not."""
    try:
        return kind(wire.Name(value).removeprefix(prefix).lower())
    except ValueError:
        return kind("unspecified")


def read_time(message: Any, field: str) -> datetime | None:
    """Returns a time in UTC, or None where it is not set."""
    return getattr(message, field).ToDatetime(UTC) if message.HasField(field) else None


def read_struct(message: Any) -> Mapping[str, Any]:
    """Returns a structure as a read-only mapping of JSON values; numbers are floats."""
    return MappingProxyType(MessageToDict(message))


def read_fields(message: Any, names: str) -> dict[str, Any]:
    """Returns plain fields by name; `names` has blanks between them."""
    return {name: getattr(message, name) for name in names.split()}
