"""Whose key a client has, as the services' own code says it."""

from graftwork.rpc.auth import Principal, Role
from graftwork.v1 import registry_pb2 as pb

_ROLES = {
    pb.Caller.ROLE_OPERATOR: Role.OPERATOR,
    pb.Caller.ROLE_VIEWER: Role.VIEWER,
    pb.Caller.ROLE_TENANT: Role.TENANT,
}


def principal_of(caller: pb.Caller) -> Principal:
    """Returns the caller; a role of a later release counts as a viewer's, which may do least."""
    return Principal(_ROLES.get(caller.role, Role.VIEWER), caller.tenant or None, caller.key_id, caller.name)
