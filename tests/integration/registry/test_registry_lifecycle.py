"""Roll-back, deletion, limits and data sets through the real command."""

import json
from pathlib import Path

import pytest

from adapter_store import open_store
from graftwork.client.errors import RemoteConflict, RemoteForbidden, RemotePrecondition
from graftwork.v1 import registry_pb2
from tests.integration.registry.registry_process import RegistryProcess
from tests.store_samples import make_adapter

pytestmark = pytest.mark.slow


def ok(registry: RegistryProcess, *arguments: str) -> object:
    done = registry.graft(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_life_of_an_adapter(registry: RegistryProcess, tmp_path: Path) -> None:
    digests = []
    for seed in (21, 22):
        folder = make_adapter(tmp_path / f"a{seed}", seed)
        made = ok(registry, "adapter", "register", "life", str(folder), "-t", "acme", "--alias", "prod")
        digests.append(made["version"]["name"].split("/")[-1])  # type: ignore[index]
    first, second = digests
    refused = registry.graft("adapter", "delete", "life", second[:12], "-t", "acme")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "alias prod" in refused.stderr
    back = ok(registry, "adapter", "rollback", "life", "-t", "acme", "--reason", "worse")
    assert (back["version"], back["number"], back["restores"]) == (first, "3", "1")  # type: ignore[index]
    assert registry.graft("adapter", "rollback", "life", "-t", "acme").returncode == 1
    history = ok(registry, "adapter", "history", "life", "-t", "acme")
    assert [record["version"] for record in history] == [first, second, first]  # type: ignore[attr-defined]
    assert history[0]["reason"] == "worse"  # type: ignore[index]
    gone = ok(registry, "adapter", "delete", "life", second[:12], "-t", "acme")
    assert gone[0]["purge_time"] > gone[0]["create_time"]  # type: ignore[index]
    shown = ok(registry, "adapter", "show", "life", "-t", "acme")
    assert [version["name"].split("/")[-1] for version in shown["versions"]] == [first]  # type: ignore[index]
    assert registry.graft("adapter", "delete", "life", "-t", "acme").returncode == 1
    ok(registry, "adapter", "delete-alias", "life", "prod", "-t", "acme")
    ok(registry, "adapter", "delete", "life", "-t", "acme")
    listed = ok(registry, "adapter", "list", "-t", "acme")
    assert "tenants/acme/adapters/life" not in [item["name"] for item in listed]  # type: ignore[attr-defined]


def test_a_canary_by_weight(registry: RegistryProcess, tmp_path: Path) -> None:
    digests = []
    for seed in (41, 42):
        folder = make_adapter(tmp_path / f"a{seed}", seed)
        made = ok(registry, "adapter", "register", "canary", str(folder), "-t", "acme")
        digests.append(made["version"]["name"].split("/")[-1])  # type: ignore[index]
    old, new = digests
    split = ok(registry, "adapter", "split", "canary", f"{old[:12]}=90", f"{new[:12]}=10", "-t", "acme")
    assert {item["version"]: item["weight"] for item in split["split"]} == {old: 90, new: 10}  # type: ignore[index]
    assert split["version"] == old  # type: ignore[index]
    shown = registry.graft("adapter", "list", "-t", "acme").stdout
    assert f"{new[:12]}=10" in shown
    for wrong in ([f"{old}=90"], [f"{old}=0", f"{new}=1"], ["zzz=1", f"{new}=1"]):
        refused = registry.graft("adapter", "split", "canary", *wrong, "-t", "acme")
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1), refused.stderr
    assert registry.graft("adapter", "split", "canary", f"{old}=x", "-t", "acme").returncode == 2
    promoted = ok(registry, "adapter", "promote", "canary", new[:12], "-t", "acme")
    assert (promoted["version"], promoted["split"]) == (new, [])  # type: ignore[index]


def test_how_an_alias_is_served(registry: RegistryProcess, tmp_path: Path) -> None:
    made = ok(
        registry, "adapter", "register", "fast", str(make_adapter(tmp_path / "f", 51)), "-t", "acme", "--alias", "prod"
    )
    assert made["alias"]["route"] == "swapped"  # type: ignore[index]
    policy = ("alias", "policy", "fast", "prod", "-t", "acme")
    merged = ok(registry, *policy, "--route", "merged", "--expected", "1", "--reason", "a call centre")
    assert (merged["route"], merged["number"], merged["reason"]) == ("merged", "2", "a call centre")  # type: ignore[index]
    assert merged["version"] == made["alias"]["version"]  # type: ignore[index]
    stale = registry.graft(*policy, "--route", "swapped", "--expected", "1")
    assert (stale.returncode, "at number 2, not 1" in stale.stderr) == (1, True)
    unknown = registry.graft(*policy, "--route", "fast")
    assert (unknown.returncode, unknown.stderr.count("\n"), "take swapped, merged or auto" in unknown.stderr) == (
        1,
        1,
        True,
    )
    missing = registry.graft("alias", "policy", "fast", "beta", "-t", "acme", "--route", "merged")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    shown = registry.graft(*policy)
    assert (shown.returncode, "merged (record 2)" in shown.stdout) == (0, True), shown.stderr
    history = ok(registry, "adapter", "history", "fast", "-t", "acme")
    assert [(record["number"], record["route"]) for record in history] == [("2", "merged"), ("1", "swapped")]  # type: ignore[attr-defined]
    assert "merged" in registry.graft("adapter", "history", "fast", "-t", "acme").stdout
    listed = ok(registry, "adapter", "list", "-t", "acme")
    (alias,) = next(item for item in listed if item["name"].endswith("/fast"))["aliases"]  # type: ignore[attr-defined]
    assert alias == merged
    (line,) = (line for line in registry.graft("adapter", "list", "-t", "acme").stdout.splitlines() if "fast" in line)
    assert "merged" in line
    said = registry.graft(*policy, "--route", "swapped")
    assert (said.returncode, "swapped (record 3)" in said.stdout) == (0, True), said.stderr
    auto = ok(registry, *policy, "--route", "auto", "--first-token-ms", "200")
    assert (auto["route"], auto["first_token_ms"]) == ("auto", 200)  # type: ignore[index]
    assert "auto, first token within 200 ms (record 4)" in registry.graft(*policy).stdout
    refused = registry.graft(*policy, "--route", "merged", "--between-tokens-ms", "20")
    assert (refused.returncode, "a target for the route auto" in refused.stderr) == (1, True)


def test_limits_and_switching_off(registry: RegistryProcess) -> None:
    ok(registry, "tenant", "create", "cargo")
    key = ok(registry, "tenant", "key", "cargo")["api_key"]  # type: ignore[index]
    changed = ok(registry, "tenant", "limits", "cargo", "--weight", "4", "--requests-per-minute", "60")
    assert (changed["weight"], changed["limits"]["requests_per_minute"]) == (4, "60")  # type: ignore[index]
    cleared = ok(registry, "tenant", "limits", "cargo", "--requests-per-minute", "0", "--concurrency", "3")
    assert (cleared["limits"]["requests_per_minute"], cleared["limits"]["concurrency"]) == ("0", "3")  # type: ignore[index]
    stale = registry.graft("tenant", "limits", "cargo", "--weight", "5", "--expected", "1")
    assert stale.returncode == 1
    assert "at number 5, not 1" in stale.stderr
    assert registry.graft("tenant", "limits", "cargo", "--weight", "0").returncode == 1
    ok(registry, "tenant", "disable", "cargo")
    refused = registry.graft("adapter", "list", key=key)
    assert (refused.returncode, "disabled" in refused.stderr) == (1, True)
    assert ok(registry, "tenant", "show", "cargo")["disabled"] is True  # type: ignore[index]
    ok(registry, "tenant", "enable", "cargo")
    assert registry.graft("adapter", "list", key=key).returncode == 0


def test_conflicts_and_preconditions_keep_their_kind_on_the_wire(registry: RegistryProcess, tmp_path: Path) -> None:
    alias = "tenants/acme/adapters/kinds/aliases/prod"
    with registry.client() as client:
        made = client.register_adapter("acme", "kinds", make_adapter(tmp_path / "k", 31), "prod")
        with pytest.raises(RemoteConflict, match="at number 1, not 9"):
            client.roll_back_alias(alias, expected=9)
        with pytest.raises(RemotePrecondition, match="no other version"):
            client.roll_back_alias(alias)
        with pytest.raises(RemotePrecondition, match="prod"):
            client.delete_version(made.version.name)
        with client_of(registry, "acme") as own, pytest.raises(RemoteForbidden):
            own.update_tenant(registry_pb2.UpdateTenantRequest(name="tenants/acme", weight=9))


def client_of(registry: RegistryProcess, tenant: str):  # type: ignore[no-untyped-def]
    with registry.client() as operator:
        return registry.client(operator.create_key(tenant).secret)


def test_data_sets_are_listed_shown_and_deleted(registry: RegistryProcess, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "a", "response": "b"}\n')
    kept = open_store(registry.store_url).datasets.put("acme", rows, display_name="rows", format="jsonl", rows=1)
    (listed,) = ok(registry, "dataset", "list", "-t", "acme")  # type: ignore[misc]
    assert (listed["name"], listed["rows"]) == (f"tenants/acme/datasets/{kept.id}", "1")
    assert ok(registry, "dataset", "show", kept.id, "-t", "acme") == listed
    ok(registry, "dataset", "delete", kept.id, "-t", "acme")
    assert ok(registry, "dataset", "list", "-t", "acme") == []
    again = registry.graft("dataset", "delete", kept.id, "-t", "acme")
    assert (again.returncode, len(again.stderr.splitlines())) == (1, 1)
