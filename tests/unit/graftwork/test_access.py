"""Roles: every call of the protocol has been thought of, and a viewer only looks."""

import pytest

from graftwork.rpc.access import _NAMED, Access, access_of, is_audited, known, require_access
from graftwork.rpc.auth import Forbidden, Principal, Role
from graftwork.v1 import registry_pb2, serving_pb2, trainer_pb2

METHODS = [
    f"/{service.full_name}/{method.name}"
    for proto in (registry_pb2, serving_pb2, trainer_pb2)
    for service in proto.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
OPERATOR = Principal(Role.OPERATOR, None, "0" * 16)
VIEWER = Principal(Role.VIEWER, None, "1" * 16, "wall-screen")
ACME = Principal(Role.TENANT, "acme", "2" * 16)


@pytest.mark.parametrize("method", METHODS)
def test_somebody_has_said_what_each_call_does(method: str) -> None:
    assert known(method), "add it to graftwork.rpc.access: until then it is closed to viewers and audited"


def test_the_table_names_no_call_that_there_is_not() -> None:
    assert {method.rpartition("/")[2] for method in METHODS} >= _NAMED.keys()


def test_a_call_that_nobody_has_thought_of_is_a_change() -> None:
    assert access_of("/graftwork.v1.TrainerService/Reticulate") is Access.CHANGE
    assert is_audited("/graftwork.v1.TrainerService/Reticulate")


@pytest.mark.parametrize("method", METHODS)
def test_a_viewer_makes_calls_that_read_and_no_others(method: str) -> None:
    access = access_of(method)
    require_access(OPERATOR, access)
    require_access(ACME, access)  # what a tenant may not do, each method says
    if access is Access.READ:
        require_access(VIEWER, access)
    else:
        with pytest.raises(Forbidden, match="only looks"):
            require_access(VIEWER, access)


def test_a_viewer_sees_all_tenants_and_operates_none() -> None:
    assert VIEWER.may_name("acme")
    VIEWER.require_overseer()
    VIEWER.require_tenant("acme")
    with pytest.raises(Forbidden, match="a viewer's key"):
        VIEWER.require_operator()
    with pytest.raises(Forbidden, match="a tenant's key"):
        ACME.require_overseer()
    assert not ACME.may_name("bloom")


def test_records_name_the_key_and_its_owner() -> None:
    assert VIEWER.label == f"viewer wall-screen {'1' * 16}"
    assert OPERATOR.label == f"operator {'0' * 16}"
