"""Both clients of the SDK against a real registry: tenants, keys, and the life of an adapter."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import graftwork
from graftwork import AsyncClient, Client
from tests.integration.registry.registry_process import OPERATOR, RegistryProcess
from tests.store_samples import make_adapter

pytestmark = pytest.mark.slow
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def client(registry: RegistryProcess) -> Iterator[Client]:
    with Client(trainer=registry.address, serving=NOWHERE, api_key=OPERATOR, tenant="acme") as found:
        yield found


def test_a_tenant_from_its_making_to_its_disabling(client: Client, registry: RegistryProcess) -> None:
    made = client.tenants.create("sdk-tenant")
    assert (made.id, made.disabled, made.limits) == ("sdk-tenant", False, graftwork.Limits())
    with pytest.raises(graftwork.RemoteAlreadyExists):
        client.tenants.create("sdk-tenant")
    changed = client.tenants.update("sdk-tenant", weight=3, requests_per_minute=60, expected_number=made.number)
    assert (changed.weight, changed.limits.requests_per_minute, changed.limits.concurrency) == (3, 60, 0)
    with pytest.raises(graftwork.RemoteConflict, match=str(changed.number)):
        client.tenants.update("sdk-tenant", weight=4, expected_number=made.number)
    assert {tenant.id for tenant in client.tenants.list()} >= {"acme", "sdk-tenant"}

    issued = client.tenants.create_key("sdk-tenant", "ci")
    assert issued.secret.startswith("gw_sdk-tenant_")
    assert issued.secret not in repr(issued)
    with Client(trainer=registry.address, serving=NOWHERE, api_key=issued.secret) as own:
        assert own.tenant == "sdk-tenant"
        assert list(own.adapters.list()) == []
        with pytest.raises(graftwork.RemoteForbidden):
            own.tenants.create("another")
        with pytest.raises(graftwork.RemoteNotFound):
            next(own.for_tenant("acme").adapters.list())
        revoked = client.tenants.revoke_key("sdk-tenant", issued.key.id)
        assert revoked.revoked is not None
        assert [(key.id, key.display_name) for key in client.tenants.keys("sdk-tenant")] == [(issued.key.id, "ci")]
    assert client.tenants.update("sdk-tenant", disabled=True).disabled


def test_the_life_of_an_adapter(client: Client, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    one = client.adapters.register(
        "life-sdk",
        make_adapter(tmp_path / "one", 71),
        alias="prod",
        progress=lambda done, all_: seen.append((done, all_)),
    )
    assert seen[-1][0] == seen[-1][1] > 0
    assert one.alias is not None
    assert (one.alias.id, one.alias.version, one.alias.number) == ("prod", one.version.digest, 1)
    two = client.adapters.register("life-sdk", tmp_path / "one").version
    assert two.digest == one.version.digest  # the same content
    two = client.adapters.register("life-sdk", make_adapter(tmp_path / "two", 72)).version
    assert {version.digest for version in client.adapters.versions("life-sdk")} == {one.version.digest, two.digest}

    moved = client.adapters.promote("life-sdk", two.digest, expected_number=1, reason="better")
    assert (moved.version, moved.number, moved.reason) == (two.digest, 2, "better")
    with pytest.raises(graftwork.RemoteConflict):
        client.adapters.promote("life-sdk", one.version.digest, expected_number=1)
    split = client.adapters.split("life-sdk", {one.version.digest: 90, two.digest: 10})
    assert split.split == {one.version.digest: 90, two.digest: 10}
    assert client.adapters.set_route("life-sdk", "merged").route == "merged"
    back = client.adapters.roll_back("life-sdk", reason="worse")
    assert (back.split, back.reason) == ({}, "worse")
    assert [record.number for record in client.adapters.history("life-sdk")] == [5, 4, 3, 2, 1]
    assert client.adapters.get("life-sdk").aliases["prod"] == back

    found = client.adapters.version("life-sdk")
    assert (found.digest, found.rank, found.alpha, found.target_modules) == (back.version, 4, 8, ("q_proj", "v_proj"))
    exported = client.adapters.export("life-sdk", tmp_path / "out", version=two.digest)
    assert exported == client.adapters.version("life-sdk", two.digest)
    weights = "adapter_model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "two" / weights).read_bytes()
    with pytest.raises(graftwork.InvalidFolder):
        client.adapters.export("life-sdk", tmp_path / "out")
    assert [check.problem for check in client.adapters.verify("life-sdk")] == ["", "", ""]

    with pytest.raises(graftwork.RemotePrecondition, match="alias"):
        client.adapters.delete_version("life-sdk", back.version)
    assert client.adapters.delete_alias("life-sdk", "prod").removed
    deletions = client.adapters.delete("life-sdk", reason="done")
    assert all(item.kept_until and item.deleted and item.kept_until > item.deleted for item in deletions)
    with pytest.raises(graftwork.RemoteNotFound):
        client.adapters.get("life-sdk")


def test_an_adapter_for_another_backbone_is_refused_at_the_door(client: Client, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = make_adapter(tmp_path / "a", 73)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: value[:, :-1].copy() for name, value in weights.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(graftwork.RemoteInvalid):
        client.adapters.register("foreign-sdk", folder)
    with pytest.raises(graftwork.RemoteNotFound):
        client.adapters.get("foreign-sdk")


async def test_the_asynchronous_client_does_the_same_and_many_things_at_once(
    registry: RegistryProcess, tmp_path: Path
) -> None:
    folders = [make_adapter(tmp_path / f"a{seed}", seed) for seed in range(81, 85)]
    async with AsyncClient(trainer=registry.address, serving=NOWHERE, api_key=OPERATOR) as operator:
        await operator.tenants.create("aio")
        client = operator.for_tenant("aio")
        made = await asyncio.gather(
            *(client.adapters.register(f"a{n}", folder, alias="prod") for n, folder in enumerate(folders))
        )
        assert [item.version.name.split("/")[3] for item in made] == ["a0", "a1", "a2", "a3"]
        assert [adapter.id async for adapter in client.adapters.list()] == ["a0", "a1", "a2", "a3"]
        exported = await client.adapters.export("a2", tmp_path / "out")
        assert exported.digest == made[2].version.digest
        assert (tmp_path / "out/adapter_config.json").is_file()
        with pytest.raises(graftwork.RemoteNotFound):
            await client.adapters.get("nothing")
        with pytest.raises(graftwork.TenantMissing):
            operator.adapters.list()


def test_a_service_that_is_away_is_named_with_what_to_do(registry: RegistryProcess) -> None:
    with (
        Client(trainer=registry.address, serving=NOWHERE, api_key=OPERATOR, retries=0) as client,
        pytest.raises(graftwork.RemoteUnavailable, match=r"127\.0\.0\.1:1.*graft up"),
    ):
        client.serving.info()


def test_a_wrong_key_is_refused_as_such(registry: RegistryProcess) -> None:
    def first(**settings: Any) -> Any:
        with Client(trainer=registry.address, serving=NOWHERE, **settings) as client:
            return next(client.for_tenant("acme").adapters.list(), None)

    with pytest.raises(graftwork.RemoteUnauthenticated):
        first(api_key="gw_acme_wrong")
