"""The audit log of a real registry: who, what, from, to; also of what was refused, and of a process that was killed in between."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapter_store.documents import canonical
from graftwork.client import Client
from graftwork.client.errors import RemoteError
from graftwork.operator_keys import OperatorKeyFile, digest_of
from graftwork.rpc.auth import Role
from graftwork.v1 import registry_pb2 as pb
from graftwork.v1 import registry_pb2_grpc
from tests.integration.registry.registry_process import OPERATOR, RegistryProcess
from tests.store_samples import make_adapter

pytestmark = pytest.mark.slow
BY = f"operator {digest_of(OPERATOR).hex()[:16]}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator["World"]:
    made = World(tmp_path_factory.mktemp("audit"))
    yield made
    made.client.close()
    assert made.registry.stop() == 0


class World:
    """A registry with one tenant that has one adapter in two versions."""

    def __init__(self, root: Path) -> None:
        self.registry = RegistryProcess(root)
        self.client = self.registry.client()
        self.client.create_tenant("acme")
        self.one = self.register("one", 1)
        self.two = self.register("two", 2)

    def register(self, name: str, seed: int) -> str:
        folder = make_adapter(self.registry.root / name, seed=seed)
        made = self.client.register_adapter("acme", "support", folder, alias="prod")
        return made.version.name.rpartition("/")[2]

    def log_with(self, request: str) -> str:
        """The registry's log, as soon as it tells of this request, and so of all before it."""
        deadline = time.monotonic() + 30
        while request not in (text := self.registry.log.read_text()):
            assert time.monotonic() < deadline, text
            time.sleep(0.02)  # polls an outside process; nothing else tells
        return text

    def newest(self, **request: Any) -> pb.AuditEntry:
        return next(self.client.list_audit(pb.ListAuditEntriesRequest(**request)))


def changed(entry: pb.AuditEntry) -> dict[str, tuple[str, str]]:
    return {change.field: (change.before, change.after) for change in entry.changes}


ALIAS = "tenants/acme/adapters/support/aliases/prod"


def test_a_moved_alias_says_from_where_to_where_by_whom_and_why(world: World) -> None:
    world.client.set_alias(ALIAS, world.one, reason="two is rude")
    entry = world.newest()
    assert (entry.action, entry.target, entry.outcome, entry.actor) == ("SetAlias", ALIAS, "ok", BY)
    assert changed(entry) == {"version": (world.two, world.one)}
    assert (entry.tenant, entry.reason, entry.peer) == ("tenants/acme", "two is rude", "127.0.0.1")
    assert entry.service.startswith("RegistryService on ")
    lines = [line for line in world.log_with(entry.request_id).splitlines() if entry.request_id in line]
    assert any("/SetAlias" in line for line in lines)
    world.client.roll_back_alias(ALIAS)
    assert changed(world.newest(action="RollbackAlias")) == {"version": (world.one, world.two)}


def test_a_call_that_changed_nothing_tells_no_change(world: World) -> None:
    current = world.client.get_version(ALIAS).name.rpartition("/")[2]
    world.client.set_alias(ALIAS, current)
    entry = world.newest(action="SetAlias")
    assert (entry.outcome, list(entry.changes)) == ("ok", [])


def test_each_kind_of_change_leaves_its_from_and_to(world: World) -> None:
    client, name = world.client, "tenants/acme"
    client.update_tenant(pb.UpdateTenantRequest(name=name, limits=pb.TenantLimits(concurrency=3), weight=2))
    assert changed(world.newest()) == {"weight": ("1", "2"), "concurrency": ("0", "3")}
    client.update_tenant(pb.UpdateTenantRequest(name=name, disabled=True))
    assert changed(world.newest()) == {"disabled": ("", "yes")}
    client.update_tenant(pb.UpdateTenantRequest(name=name, disabled=False))
    issued = client.create_key("acme", "ci")
    assert changed(world.newest()) == {f"key {issued.key.id}": ("", "good ci")}
    client.revoke_key("acme", issued.key.id)
    assert changed(world.newest()) == {f"key {issued.key.id}": ("good ci", "revoked")}
    client.set_alias_policy(ALIAS, "merged")
    assert changed(world.newest()) == {"route": ("swapped", "merged")}
    client.split_alias(ALIAS, {world.one: 9, world.two: 1})
    split = changed(world.newest())["split"]
    assert split[0] == ""
    assert set(split[1].split()) == {f"{world.one[:12]}=9", f"{world.two[:12]}=1"}
    client.delete_alias(ALIAS)
    assert changed(world.newest())["split"] == (split[1], "")
    client.delete_version(f"{name}/adapters/support/versions/{world.one}", reason="rude")
    deleted = world.newest()
    assert (deleted.action, deleted.reason) == ("DeleteVersion", "rude")
    assert changed(deleted)["state"][1].startswith("deleted, its bytes kept until")
    version = world.register("one again", 1)
    registered = world.newest()
    assert registered.target == f"{name}/adapters/support/versions/{version}"
    assert changed(registered)["alias prod: version"] == ("", version)


def test_what_is_only_read_leaves_nothing_and_what_leaves_the_house_does(world: World, tmp_path: Path) -> None:
    before = world.newest().id
    list(world.client.list_tenants())
    list(world.client.list_versions("tenants/acme/adapters/support"))
    assert world.newest().id == before
    world.client.download_version(ALIAS, tmp_path / "out")
    taken = world.newest()
    assert (taken.action, taken.target, taken.outcome) == ("DownloadVersion", ALIAS, "ok")


REFUSED: dict[str, tuple[Callable[[Client], object], str, str]] = {
    "another tenant's": (
        lambda acme: acme.delete_adapter("tenants/bloom/adapters/x"),
        "not_found",
        "tenants/bloom/adapters/x",
    ),
    "an operator's call": (lambda acme: acme.create_tenant("mine"), "forbidden", "tenants/mine"),
    "nonsense": (lambda acme: acme.delete_alias("nonsense"), "invalid", "nonsense"),
}


@pytest.mark.parametrize(("call", "outcome", "target"), REFUSED.values(), ids=REFUSED)
def test_a_refused_call_is_an_entry_of_the_caller(
    world: World, call: Callable[[Client], object], outcome: str, target: str
) -> None:
    key = world.client.create_key("acme", "tries").secret
    with world.registry.client(key) as acme, pytest.raises(RemoteError):
        call(acme)
    entry = world.newest()
    assert (entry.outcome, entry.target, entry.tenant) == (outcome, target, "tenants/acme")
    assert entry.actor == f"tenant {digest_of(key).hex()[:16]}"
    assert list(entry.changes) == []


def test_a_tenant_reads_its_own_entries_without_addresses_and_nobody_elses(world: World) -> None:
    world.client.create_tenant("cargo")
    key = world.client.create_key("cargo", "own").secret
    with world.registry.client(key) as cargo:
        entries = list(cargo.list_audit(pb.ListAuditEntriesRequest()))
        assert [entry.action for entry in entries] == ["CreateApiKey", "CreateTenant"]
        assert {entry.peer for entry in entries} == {""}
        with pytest.raises(RemoteError, match="not found"):
            list(cargo.list_audit(pb.ListAuditEntriesRequest(parent="tenants/acme")))
    everything = list(world.client.list_audit(pb.ListAuditEntriesRequest(page_size=7)))
    assert {"tenants/acme", "tenants/cargo"} <= {entry.tenant for entry in everything}
    times = [entry.create_time.ToNanoseconds() for entry in everything]
    assert times == sorted(times, reverse=True)


def test_a_viewer_sees_everything_and_changes_nothing_and_keys_change_without_a_restart(world: World) -> None:
    file = OperatorKeyFile(world.registry.key_file)
    with pytest.raises(RemoteError, match="operator key is not valid"), world.registry.client("gwop_other") as nobody:
        list(nobody.list_tenants())
    viewer_key, alice_key = file.add("screen", Role.VIEWER), file.add("alice", Role.OPERATOR)
    with world.registry.client(viewer_key) as viewer, world.registry.client(alice_key) as alice:
        assert "tenants/acme" in {tenant.name for tenant in viewer.list_tenants()}
        assert list(viewer.list_audit(pb.ListAuditEntriesRequest(page_size=1)))
        for call in (
            lambda: viewer.create_tenant("viewers"),
            lambda: viewer.delete_alias(ALIAS),
            lambda: viewer.create_key("acme", "mine"),
            lambda: viewer.download_version(ALIAS, world.registry.root / "stolen"),
        ):
            with pytest.raises(RemoteError, match="only looks"):
                call()
        tried = world.newest()
        assert (tried.action, tried.outcome) == ("DownloadVersion", "forbidden")
        assert tried.actor == f"viewer screen {digest_of(viewer_key).hex()[:16]}"
        alice.create_key("acme", "by alice")
        assert world.newest().actor == f"operator alice {digest_of(alice_key).hex()[:16]}"
        file.remove("alice")
        with pytest.raises(RemoteError, match="operator key is not valid"):
            list(alice.list_tenants())
    noted = world.newest(action="OperatorKeys")
    assert changed(noted) == {digest_of(alice_key).hex()[:16]: ("operator alice", "")}


def test_the_command_shows_it_and_filters(world: World) -> None:
    world.client.create_key("acme", "for the command")
    shown = world.registry.graft("audit", "--tenant", "acme", "--action", "CreateApiKey", "--limit", "1", "--json")
    assert shown.returncode == 0, shown.stderr
    (entry,) = json.loads(shown.stdout)
    assert entry["action"] == "CreateApiKey"
    assert entry["changes"][0]["after"] == "good for the command"
    table = world.registry.graft("audit", "--actor", BY, "--outcome", "ok", "--since", "1h")
    words = " ".join(table.stdout.split())
    assert "good for" in words
    assert "acme/support@" in words
    assert world.registry.graft("audit", "--since", "whenever").returncode == 2
    assert json.loads(world.registry.graft("audit", "--since", "2100-01-01", "--json").stdout) == []


def test_no_entry_holds_a_key_or_a_prompt(world: World) -> None:
    secret = world.client.create_key("acme", "secret").secret
    assert world.newest().action == "CreateApiKey"
    log, entries = (
        world.log_with(world.newest().request_id),
        list((world.registry.root / "store").rglob("v1/audit/*/*.json")),
    )
    assert entries
    for text in (log, *(entry.read_text() for entry in entries)):
        assert secret not in text
        assert OPERATOR not in text


def test_a_call_that_a_killed_registry_had_begun_is_in_the_log_as_unknown(tmp_path: Path) -> None:
    """The outbox is written first: what the next process finds without an end may have been carried out or not."""
    registry = RegistryProcess(tmp_path)
    with registry.client() as client:
        client.create_tenant("acme")
    stream = _endless_registration(registry)
    registry.process.kill()
    registry.process.wait(30)
    stream.cancel()
    again = RegistryProcess(tmp_path, registry.backbone)
    with again.client() as client:
        entry = next(client.list_audit(pb.ListAuditEntriesRequest()))
    assert (entry.action, entry.outcome, entry.actor) == ("RegisterAdapter", "unknown", BY)
    assert again.stop() == 0
    assert list((tmp_path / "state/audit").glob("*.json")) == []


def _endless_registration(registry: RegistryProcess) -> Any:
    """A registration that has begun and does not end; returns its call once the registry has written it down."""
    hold = threading.Event()

    def messages() -> Iterator[pb.RegisterAdapterRequest]:
        header = pb.RegisterAdapterHeader(parent="tenants/acme", adapter_id="half")
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            header.files.add(path=name, size_bytes=10)
        yield pb.RegisterAdapterRequest(header=header)
        hold.wait(60)

    channel = grpc.insecure_channel(registry.address)
    stub = registry_pb2_grpc.RegistryServiceStub(channel)
    call = stub.RegisterAdapter.future(messages(), metadata=(("authorization", f"Bearer {OPERATOR}"),))
    deadline = time.monotonic() + 30
    while not any('"unknown"' in path.read_text() for path in (registry.root / "state/audit").glob("*.json")):
        assert time.monotonic() < deadline, registry.log.read_text()
        assert not call.done(), call.exception()
        time.sleep(0.02)  # polls an outside process; nothing else tells
    return call


def test_an_entry_that_was_changed_or_removed_behind_the_services_back_is_named_by_the_command(tmp_path: Path) -> None:
    registry = RegistryProcess(tmp_path)
    with registry.client() as client:
        for tenant in ("acme", "bloom", "cargo", "delta"):
            client.create_tenant(tenant)
        key = client.create_key("acme", "laptop").secret
    sound = registry.graft("audit", "--verify", "--json")
    assert sound.returncode == 0, sound.stderr
    report = json.loads(sound.stdout)
    assert (report["entries"], report["chains"][0]["vouched"], report["problems"]) == ("5", True, [])
    refused = registry.graft("audit", "--verify", key=key)
    assert (refused.returncode, "operator" in refused.stderr) == (1, True), "it shows what others have done"

    objects = {json.loads(path.read_text())["body"]["number"]: path for path in tmp_path.rglob("v1/audit/*/*.json")}
    changed = json.loads(objects[2].read_text())["body"] | {"actor": "operator somebody else"}
    checksum = hashlib.sha256(canonical(changed)).hexdigest()
    objects[2].write_bytes(canonical({"body": changed, "sha256": checksum}))
    objects[5].unlink()
    found = registry.graft("audit", "--verify")
    assert found.returncode == 1
    said = " ".join(found.stderr.split())
    writer = changed["writer"]
    place = f"v1/audit/{objects[2].parent.name}/{objects[2].name}"
    assert f"changed: entry 2 of chain {writer}, {place}:" in said
    assert f"removed: entry 5 of chain {writer}:" in said, "the newest, which only its writer can miss"
    assert "5 entries" not in said
    assert "4 entries" in said
    assert registry.stop() == 0
    again = RegistryProcess(tmp_path, registry.backbone)
    with again.client() as client:
        report = client.verify_audit()
    assert again.stop() == 0
    assert [problem.number for problem in report.problems] == [2, 5], "a restart forgets nothing"


def test_wrong_keys_are_held_back_and_good_ones_are_not(tmp_path: Path) -> None:
    registry = RegistryProcess(tmp_path, GRAFT_REGISTRY_AUTH_FAILURES_PER_MINUTE="3")
    with registry.client() as good, registry.client("gwop_wrong") as wrong:
        good.create_tenant("acme")
        for _ in range(3):
            with pytest.raises(RemoteError) as refused:
                wrong.trainer.call(wrong._registry.ListTenants, pb.ListTenantsRequest(), idempotent=False)
            assert refused.value.code.value == "unauthenticated"
        with pytest.raises(RemoteError, match="too many wrong API keys") as refused:
            wrong.trainer.call(wrong._registry.ListTenants, pb.ListTenantsRequest(), idempotent=False)
        assert refused.value.code.value == "exhausted"
        assert refused.value.retry_after_seconds
        assert [tenant.name for tenant in good.list_tenants()] == ["tenants/acme"]
    assert registry.stop() == 0
    assert registry.log.read_text().count("held back for wrong keys") == 1


def test_a_terminal_is_told_whose_key_it_uses_as_the_log_names_it(world: World) -> None:
    told = json.loads(world.registry.graft("--json", "whoami").stdout)
    assert f"{told['role']} {told['key_id']}" == BY
    issued = world.client.create_key("acme", "laptop").secret
    text = world.registry.graft("whoami", key=issued).stdout
    assert "tenant" in text
    assert "acme" in text
    assert issued not in text
    wrong = world.registry.graft("whoami", key="gwop_nobody")
    assert wrong.returncode == 1
    assert len(wrong.stderr.splitlines()) == 1
