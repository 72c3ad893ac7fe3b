"""Several registries on one store: what one does to a key or a tenant holds on all of them within 5 s; and who may do what."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graftwork.client import Client
from graftwork.client.errors import RemoteError, RemoteForbidden, RemoteNotFound, RemoteUnauthenticated
from graftwork.v1 import registry_pb2
from tests.integration.registry.registry_process import RegistryProcess
from tests.store_samples import make_adapter

pytestmark = pytest.mark.slow
PROMISED_S = 5.0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RegistryProcess]]:
    root = tmp_path_factory.mktemp("nodes")
    first = RegistryProcess(root / "0")
    rest = [RegistryProcess(root / name, first.backbone, first.store_url) for name in ("1", "2")]
    yield [first, *rest]
    for node in (first, *rest):
        assert node.stop() == 0


def wait_refused(clients: list[Client], kind: type[RemoteError], began: float) -> None:
    """Asks all nodes in turn until each has refused the key; none may after the promised time take it once more."""
    taking = list(clients)
    while taking:
        client, asked = taking.pop(0), time.monotonic()
        try:
            list(client.list_adapters(""))
        except kind:
            continue
        assert asked - began < PROMISED_S
        taking.append(client)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (lambda operator, tenant, key: operator.revoke_key(tenant, key), RemoteUnauthenticated),
        (
            lambda operator, tenant, key: operator.update_tenant(
                registry_pb2.UpdateTenantRequest(name=f"tenants/{tenant}", disabled=True)
            ),
            RemoteForbidden,
        ),
    ],
    ids=["revoked", "disabled"],
)
def test_a_key_that_ends_on_one_node_ends_on_all(
    nodes: list[RegistryProcess],
    end: Callable[[Client, str, str], object],
    kind: type[RemoteError],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    tenant = request.node.callspec.id
    with nodes[0].client() as operator:
        operator.create_tenant(tenant)
        operator.register_adapter(tenant, "a", make_adapter(tmp_path / "a"))  # an empty list would read the tenant anew
        issued = operator.create_key(tenant)
        clients = [node.client(issued.secret) for node in nodes]
        for client in clients:  # each node knows the key now, and asks nobody for a while
            assert len(list(client.list_adapters(""))) == 1
        began = time.monotonic()
        end(operator, tenant, issued.key.id)
        with pytest.raises(kind):  # at once where it was ended
            list(clients[0].list_adapters(""))
        wait_refused(clients, kind, began)
        for client in clients:
            with pytest.raises(kind):
                list(client.list_adapters(""))
            client.close()


def test_a_tenants_key_may_change_its_own_things_and_no_operators(nodes: list[RegistryProcess], tmp_path: Path) -> None:
    """Every change of the registry, with a tenant's key: on its own things, on another tenant's, and on what is an operator's."""
    with nodes[0].client() as operator:
        for tenant in ("mine", "theirs"):
            operator.create_tenant(tenant)
        their_key = operator.create_key("theirs").key.id
        versions = [
            operator.register_adapter("theirs", "a", make_adapter(tmp_path / f"t{seed}", seed), "prod").version.name
            for seed in (1, 2)
        ]
        secret = operator.create_key("mine").secret
    with nodes[0].client(secret) as own:
        made = [
            own.register_adapter("", "a", make_adapter(tmp_path / f"m{seed}", seed), "prod").version.name
            for seed in (3, 4)
        ]
        alias = "tenants/mine/adapters/a/aliases/prod"
        assert own.set_alias(alias, made[0].rsplit("/", 1)[-1]).number == 3
        assert own.roll_back_alias(alias).version
        assert own.delete_alias(alias).removed
        assert own.delete_version(made[0]).name == made[0]
        assert own.delete_adapter("tenants/mine/adapters/a")
        second = own.create_key("")
        assert own.revoke_key("", second.key.id).HasField("revoke_time")

        theirs = "tenants/theirs/adapters/a"
        changes: list[Callable[[], object]] = [
            lambda: own.create_key("theirs"),
            lambda: own.revoke_key("theirs", their_key),
            lambda: own.register_adapter("theirs", "b", tmp_path / "m3"),
            lambda: own.set_alias(f"{theirs}/aliases/prod", versions[0].rsplit("/", 1)[-1]),
            lambda: own.roll_back_alias(f"{theirs}/aliases/prod"),
            lambda: own.delete_alias(f"{theirs}/aliases/prod"),
            lambda: own.delete_version(versions[0]),
            lambda: own.delete_adapter(theirs),
            lambda: own.delete_dataset("tenants/theirs/datasets/d"),
        ]
        for change in changes:
            with pytest.raises(RemoteNotFound):
                change()
        operators: list[Callable[[], object]] = [
            lambda: own.create_tenant("another"),
            lambda: list(own.list_tenants()),
            lambda: own.update_tenant(registry_pb2.UpdateTenantRequest(name="tenants/mine", weight=9)),
            lambda: own.update_tenant(registry_pb2.UpdateTenantRequest(name="tenants/theirs", disabled=True)),
        ]
        for change in operators:
            with pytest.raises(RemoteForbidden):
                change()
    with nodes[1].client() as operator:
        assert [item.number for item in operator.alias_history(f"{theirs}/aliases/prod")] == [2, 1]
        assert not operator.get_tenant("theirs").disabled
