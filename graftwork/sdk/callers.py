"""Whose key a client has: the result, and the call that gives it."""

from dataclasses import dataclass
from enum import StrEnum

from graftwork.sdk.calls import Api, Call
from graftwork.sdk.reading import read_enum, read_fields
from graftwork.v1 import registry_pb2 as pb


class Role(StrEnum):
    """What a key may do."""

    UNSPECIFIED = "unspecified"
    OPERATOR = "operator"
    """Everything."""
    VIEWER = "viewer"
    """Sees what an operator sees; changes, generates and takes out nothing."""
    TENANT = "tenant"
    """Everything with its own data sets, jobs, adapters and keys."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key it is.

    Attributes:
        role: what it may do. tenant: an id; empty for operators and viewers.
        key_id: names the key in records. name: of the person or machine that it was made for; may be empty.
    """

    role: Role
    tenant: str
    key_id: str
    name: str

    @classmethod
    def of(cls, message: pb.Caller) -> "Caller":
        role = read_enum(Role, pb.Caller.Role, message.role, "ROLE_")
        return cls(role=role, **read_fields(message, "tenant key_id name"))


def get_caller() -> Call[Caller]:
    return Call(Api.REGISTRY, "GetCaller", pb.GetCallerRequest(), Caller.of)
