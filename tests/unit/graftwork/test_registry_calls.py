"""RegistryService over a real socket: who may call what, how errors look on the wire, what never leaks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from adapter_store import AdapterStore
from adapter_store.names import NOBODY
from graftwork.client import Client, RemoteError
from graftwork.client.callers import principal_of
from graftwork.client.errors import (
    RemoteAlreadyExists,
    RemoteForbidden,
    RemoteInternal,
    RemoteInvalid,
    RemoteNotFound,
    RemoteUnauthenticated,
    RemoteUnavailable,
)
from graftwork.operator_keys import OperatorKeyFile, digest_of
from graftwork.rpc.auth import Role
from graftwork.v1 import registry_pb2, registry_pb2_grpc
from tests.unit.graftwork.registry_world import OPERATOR, Registry


def client(registry: Registry, key: str | None) -> Client:
    return Client(f"127.0.0.1:{registry.port}", "127.0.0.1:1", key)


@pytest.fixture
def operator(registry: Registry) -> Iterator[Client]:
    with client(registry, OPERATOR) as made:
        yield made


@pytest.fixture
def acme(registry: Registry, operator: Client) -> Iterator[Client]:
    """A client with acme's key; bloom exists beside it."""
    for tenant in ("acme", "bloom"):
        operator.create_tenant(tenant)
    with client(registry, operator.create_key("acme").secret) as made:
        yield made


def test_a_caller_is_told_whose_key_it_has_and_no_key_of_anybody(
    registry: Registry, operator: Client, acme: Client, key_file: Path
) -> None:
    viewer = OperatorKeyFile(key_file).add("lena", Role.VIEWER)
    with client(registry, viewer) as looking:
        seen = [principal_of(each.caller()) for each in (operator, acme, looking)]
    assert [(each.role, each.tenant, each.name) for each in seen] == [
        (Role.OPERATOR, None, ""),
        (Role.TENANT, "acme", ""),
        (Role.VIEWER, None, "lena"),
    ]
    assert [each.key_id for each in seen] == [digest_of(key).hex()[:16] for key in (OPERATOR, keyed(acme), viewer)]
    with client(registry, "gwop_nobody") as stranger, pytest.raises(RemoteUnauthenticated):
        stranger.caller()


def test_where_the_trainer_is_away_serving_says_whose_key_it_is(registry: Registry, operator: Client) -> None:
    with Client("127.0.0.1:1", f"127.0.0.1:{registry.port}", OPERATOR) as lonely:
        assert lonely.caller() == operator.caller()
    with Client("127.0.0.1:1", "127.0.0.1:1", OPERATOR) as lost, pytest.raises(RemoteUnavailable, match="is it up"):
        lost.caller()


def keyed(made: Client) -> str:
    """The key that a client sends."""
    return made.trainer._metadata[0][1].removeprefix("Bearer ")


DIGEST = "0" * 64
# What a tenant's name alone decides, and what names a thing of a tenant.
OF_TENANT = {
    "list_keys": lambda c, t: c.list_keys(t),
    "create_key": lambda c, t: c.create_key(t),
    "list_adapters": lambda c, t: list(c.list_adapters(t)),
    "list_datasets": lambda c, t: list(c.list_datasets(t)),
    "get_tenant": lambda c, t: c.get_tenant(t),
}
OF_THING = {
    "revoke_key": lambda c, t: c.revoke_key(t, "0" * 16),
    "get_adapter": lambda c, t: c.get_adapter(f"tenants/{t}/adapters/a"),
    "list_versions": lambda c, t: list(c.list_versions(f"tenants/{t}/adapters/a")),
    "get_version": lambda c, t: c.get_version(f"tenants/{t}/adapters/a/versions/{DIGEST}"),
    "get_version_by_alias": lambda c, t: c.get_version(f"tenants/{t}/adapters/a/aliases/prod"),
    "set_alias": lambda c, t: c.set_alias(f"tenants/{t}/adapters/a/aliases/prod", DIGEST),
    "set_alias_expecting": lambda c, t: c.set_alias(f"tenants/{t}/adapters/a/aliases/prod", DIGEST, expected=3),
    "roll_back_expecting": lambda c, t: c.roll_back_alias(f"tenants/{t}/adapters/a/aliases/prod", expected=3),
    "set_alias_policy": lambda c, t: c.set_alias_policy(f"tenants/{t}/adapters/a/aliases/prod", "merged"),
    "set_alias_policy_expecting": lambda c, t: c.set_alias_policy(
        f"tenants/{t}/adapters/a/aliases/prod", "merged", expected=3
    ),
    "delete_alias": lambda c, t: c.delete_alias(f"tenants/{t}/adapters/a/aliases/prod"),
    "alias_history": lambda c, t: c.alias_history(f"tenants/{t}/adapters/a/aliases/prod"),
    "delete_version": lambda c, t: c.delete_version(f"tenants/{t}/adapters/a/versions/{DIGEST}"),
    "delete_adapter": lambda c, t: c.delete_adapter(f"tenants/{t}/adapters/a"),
    "get_dataset": lambda c, t: c.get_dataset(f"tenants/{t}/datasets/d"),
    "delete_dataset": lambda c, t: c.delete_dataset(f"tenants/{t}/datasets/d"),
}


def refusal(client: Client, call: Callable[[Client, str], object], tenant: str) -> str:
    with pytest.raises(RemoteNotFound) as refused:
        call(client, tenant)
    return str(refused.value)


@pytest.mark.parametrize("call", [*OF_TENANT.values(), *OF_THING.values()], ids=[*OF_TENANT, *OF_THING])
def test_another_tenants_things_answer_like_those_of_a_tenant_that_does_not_exist(
    acme: Client, call: Callable[[Client, str], object]
) -> None:
    assert refusal(acme, call, "bloom").replace("bloom", "nobody") == refusal(acme, call, "nobody")


@pytest.mark.parametrize("call", OF_THING.values(), ids=OF_THING)
def test_another_tenants_things_answer_like_the_callers_own_that_do_not_exist(
    acme: Client, call: Callable[[Client, str], object]
) -> None:
    assert refusal(acme, call, "bloom") == refusal(acme, call, "acme")


def test_nobodys_tenant_cannot_be_made(operator: Client) -> None:
    """Other tenants' names are looked up there."""
    with pytest.raises(RemoteInvalid, match="reserved"):
        operator.create_tenant(NOBODY)


@pytest.mark.parametrize("call", [OF_TENANT["list_adapters"], OF_TENANT["list_datasets"], OF_TENANT["list_keys"]])
def test_an_operators_list_of_a_tenant_that_does_not_exist_is_not_found(
    operator: Client, call: Callable[[Client, str], object]
) -> None:
    assert "nobody" in refusal(operator, call, "nobody")


@pytest.mark.parametrize("call", [lambda c: c.create_tenant("mine"), lambda c: list(c.list_tenants())])
def test_operator_calls_refuse_a_tenants_key(acme: Client, call: object) -> None:
    with pytest.raises(RemoteForbidden, match="operator"):
        call(acme)  # type: ignore[operator]


def test_a_key_implies_its_own_tenant(acme: Client) -> None:
    assert [key.display_name for key in acme.list_keys("")] == [""]
    assert list(acme.list_adapters("")) == []


def test_a_revoked_key_is_refused_at_once_where_it_was_revoked(acme: Client, operator: Client) -> None:
    (key,) = operator.list_keys("acme")
    operator.revoke_key("acme", key.id)
    with pytest.raises(RemoteUnauthenticated):
        acme.list_keys("acme")


@pytest.mark.parametrize("key", [None, "", "gwop_wrong", "gw_acme_0", "Bearer", "gw_" + "a" * 5000])
def test_a_wrong_key_is_refused_and_not_repeated(registry: Registry, key: str | None) -> None:
    with client(registry, key) as stranger, pytest.raises(RemoteUnauthenticated) as refused:
        list(stranger.list_tenants())
    assert not key or key not in str(refused.value)


def test_a_replaced_operator_key_works_without_a_restart(registry: Registry, operator: Client, key_file: Path) -> None:
    list(operator.list_tenants())
    replaced = key_file.with_suffix(".new")
    replaced.write_text("gwop_other\n")
    replaced.rename(key_file)
    with client(registry, "gwop_other") as renewed:
        assert list(renewed.list_tenants()) == []
    with pytest.raises(RemoteUnauthenticated):
        list(operator.list_tenants())


def test_domain_errors_keep_their_text_and_carry_a_request_id(operator: Client) -> None:
    operator.create_tenant("acme")
    with pytest.raises(RemoteAlreadyExists, match="acme") as twice:
        operator.create_tenant("acme")
    assert len(twice.value.request_id) == 16
    with pytest.raises(RemoteInvalid, match="tenant id"):
        operator.create_tenant("../etc")


def test_an_unexpected_error_shows_an_id_and_nothing_of_itself(
    operator: Client, store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("secret detail")

    monkeypatch.setattr(store.tenants, "create", broken)
    with pytest.raises(RemoteInternal) as shown:
        operator.create_tenant("acme")
    assert "secret" not in str(shown.value)
    assert "ValueError" not in str(shown.value)
    assert shown.value.request_id in str(shown.value)


def test_paging_reaches_every_tenant_once(operator: Client) -> None:
    names = [f"t{number}" for number in range(7)]
    for name in names:
        operator.create_tenant(name)
    stub = registry_pb2_grpc.RegistryServiceStub(operator.trainer.channel)
    metadata = (("authorization", f"Bearer {OPERATOR}"),)
    found, token = [], ""
    while True:
        page = stub.ListTenants(registry_pb2.ListTenantsRequest(page_size=3, page_token=token), metadata=metadata)
        found += [tenant.name.split("/")[1] for tenant in page.tenants]
        if not (token := page.next_page_token):
            break
    assert found == names
    with pytest.raises(grpc.RpcError) as bad:
        stub.ListTenants(registry_pb2.ListTenantsRequest(page_token="!"), metadata=metadata)
    assert bad.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_health_answers_without_a_key_and_an_absent_service_is_named(registry: Registry) -> None:
    with client(registry, None) as anonymous:
        assert anonymous.trainer.is_serving() is False, "built servers say NOT_SERVING until the service is ready"
        with pytest.raises(RemoteError, match=r"127\.0\.0\.1:1.*graft up"):
            anonymous.serving_info()
