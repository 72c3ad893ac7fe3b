"""Every change whose answer is lost on the wire: the SDK asks again, and the change is there once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapter_store import AdapterStore, open_store
from graftwork.client import Client
from graftwork.client.errors import RemoteUnauthenticated
from graftwork.v1 import registry_pb2 as pb
from graftwork.v1 import registry_pb2_grpc
from tests.integration.registry.losing_grpc_proxy import LosingGrpcProxy
from tests.integration.registry.registry_process import OPERATOR, RegistryProcess
from tests.store_samples import make_adapter

pytestmark = pytest.mark.slow
TENANT = "tenants/{tenant}"
ADAPTER = "tenants/{tenant}/adapters/a"


class World:
    """A tenant of its own with two versions, an alias that has named both, a key and a data set."""

    def __init__(self, client: Client, store: AdapterStore, tenant: str, folder: Path) -> None:
        self.tenant, self.store, self.folder = tenant, store, folder
        self.adapter, self.alias = ADAPTER.format(tenant=tenant), f"{ADAPTER.format(tenant=tenant)}/aliases/prod"
        client.create_tenant(tenant)
        self.key = client.create_key(tenant, "first")
        self.versions = [
            client.register_adapter(tenant, "a", make_adapter(folder / f"v{seed}", seed), "prod").version.name
            for seed in (1, 2)
        ]
        rows = folder / "rows.jsonl"
        rows.write_text('{"instruction": "a", "response": "b"}\n')
        self.dataset = store.datasets.put(tenant, rows, display_name="rows", format="jsonl", rows=1).id

    def state(self, client: Client) -> dict[str, Any]:
        """What changes leave behind, by kind."""
        return {
            "tenant": self.store.tenants.get(self.tenant).number,
            "keys": [not key.HasField("revoke_time") for key in client.list_keys(self.tenant)],
            "alias": [record.number for record in client.alias_history(self.alias)],
            "versions": len(self.store.versions.list(self.tenant, "a").items),
            "datasets": len(list(client.list_datasets(self.tenant))),
        }


Change = Callable[[Client, World], Any]
CHANGES: dict[str, tuple[Change, dict[str, Any]]] = {
    # What each leaves changed: once, however often it is asked for.
    "UpdateTenant": (
        lambda c, w: c.update_tenant(pb.UpdateTenantRequest(name=f"tenants/{w.tenant}", weight=3, expected_number=2)),
        {"tenant": 3},
    ),
    "CreateApiKey": (lambda c, w: c.create_key(w.tenant, "second"), {"tenant": 4, "keys": [True, False, True]}),
    "RevokeApiKey": (lambda c, w: c.revoke_key(w.tenant, w.key.key.id), {"tenant": 3, "keys": [False]}),
    "SetAlias": (
        lambda c, w: c.set_alias(w.alias, w.versions[0].rsplit("/", 1)[-1], expected=2),
        {"alias": [3, 2, 1]},
    ),
    "SetAlias, split": (
        lambda c, w: c.split_alias(w.alias, {name.rsplit("/", 1)[-1]: 1 for name in w.versions}, expected=2),
        {"alias": [3, 2, 1]},
    ),
    "RollbackAlias": (lambda c, w: c.roll_back_alias(w.alias), {"alias": [3, 2, 1]}),
    "SetAliasPolicy": (lambda c, w: c.set_alias_policy(w.alias, "merged", expected=2), {"alias": [3, 2, 1]}),
    "DeleteAlias": (lambda c, w: c.delete_alias(w.alias), {"alias": [3, 2, 1]}),
    "DeleteVersion": (lambda c, w: c.delete_version(w.versions[0]), {"versions": 1}),
    "DeleteDataset": (lambda c, w: c.delete_dataset(f"tenants/{w.tenant}/datasets/{w.dataset}"), {"datasets": 0}),
    "RegisterAdapter": (
        lambda c, w: c.register_adapter(w.tenant, "a", make_adapter(w.folder / "v3", 3), "prod"),
        {"alias": [3, 2, 1], "versions": 3},
    ),
}


@pytest.fixture(scope="module")
def proxy(registry: RegistryProcess) -> Iterator[LosingGrpcProxy]:
    with LosingGrpcProxy(registry.address) as running:
        yield running


@pytest.fixture
def client(proxy: LosingGrpcProxy) -> Iterator[Client]:
    with Client(proxy.address, "127.0.0.1:1", OPERATOR) as made:
        yield made


@pytest.fixture
def world(client: Client, registry: RegistryProcess, tmp_path: Path, request: pytest.FixtureRequest) -> World:
    tenant = "".join(letter for letter in request.node.name.lower() if letter.isalnum())[-40:]
    return World(client, open_store(registry.store_url), tenant, tmp_path)


@pytest.mark.parametrize(("change", "left"), CHANGES.values(), ids=CHANGES)
def test_a_change_whose_answer_is_lost_is_made_once(
    client: Client, proxy: LosingGrpcProxy, world: World, change: Change, left: dict[str, Any]
) -> None:
    before, lost = world.state(client), proxy.lost
    proxy.lose = 1
    answer = change(client, world)
    assert proxy.lost == lost + 1, "the answer was on its way, so the service had acted"
    assert world.state(client) == before | left
    if isinstance(answer, pb.CreateApiKeyResponse):
        with Client(proxy.address, "127.0.0.1:1", answer.secret) as own:
            assert len(own.list_keys("")) == 3


def test_a_tenant_whose_making_was_lost_is_there_once(client: Client, proxy: LosingGrpcProxy) -> None:
    proxy.lose = 1
    assert client.create_tenant("lost").number == 1
    assert proxy.lose == 0


def test_an_adapters_deletion_whose_answer_is_lost_names_all_versions(
    client: Client, proxy: LosingGrpcProxy, world: World
) -> None:
    client.delete_alias(world.alias)
    proxy.lose = 1
    gone = client.delete_adapter(world.adapter)
    assert proxy.lose == 0
    assert [item.name for item in gone] == sorted(world.versions)
    assert world.state(client)["versions"] == 0


def test_a_key_whose_text_was_lost_is_worth_nothing(client: Client, registry: RegistryProcess, world: World) -> None:
    """The same request past the SDK, with both answers in hand."""
    stub = registry_pb2_grpc.RegistryServiceStub(client.trainer.channel)
    request = pb.CreateApiKeyRequest(parent=f"tenants/{world.tenant}", display_name="x", request_id="mine")
    metadata = (("authorization", f"Bearer {OPERATOR}"),)
    one, two = (stub.CreateApiKey(request, metadata=metadata, timeout=30) for _ in range(2))
    with registry.client(two.secret) as own:
        assert own.list_keys("")
    with registry.client(one.secret) as own, pytest.raises(RemoteUnauthenticated):
        own.list_keys("")


@pytest.mark.parametrize(
    ("request_id", "status"),
    [
        ("taken", grpc.StatusCode.ABORTED),
        ("x" * 129, grpc.StatusCode.INVALID_ARGUMENT),
        ("a b", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_an_id_that_cannot_name_the_request_is_refused(
    client: Client, world: World, request_id: str, status: grpc.StatusCode
) -> None:
    stub = registry_pb2_grpc.RegistryServiceStub(client.trainer.channel)
    metadata = (("authorization", f"Bearer {OPERATOR}"),)
    name = f"tenants/{world.tenant}"
    stub.UpdateTenant(pb.UpdateTenantRequest(name=name, weight=2, request_id="taken"), metadata=metadata, timeout=30)
    with pytest.raises(grpc.RpcError) as refused:
        stub.UpdateTenant(
            pb.UpdateTenantRequest(name=name, weight=9, request_id=request_id), metadata=metadata, timeout=30
        )
    assert refused.value.code() is status
    assert world.store.tenants.get(world.tenant).weight == 2


def test_every_change_has_its_row() -> None:
    """The protocol's own list of what may be repeated."""
    takes_an_id = {
        method.name
        for method in pb.DESCRIPTOR.services_by_name["RegistryService"].methods
        if "request_id" in method.input_type.fields_by_name or method.name == "RegisterAdapter"
    }
    elsewhere = {"CreateTenant", "DeleteAdapter"}
    assert {name.split(",")[0] for name in CHANGES} | elsewhere == takes_an_id
    verbs = ("Create", "Update", "Set", "Delete", "Revoke", "Rollback", "Register")
    changing = {m.name for m in pb.DESCRIPTOR.services_by_name["RegistryService"].methods if m.name.startswith(verbs)}
    assert changing == takes_an_id
