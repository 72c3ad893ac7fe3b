"""What an operator does with adapters in serving is in the audit log with what was before, as it truly was; over a real socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_store import open_store
from graftwork import Client, MergedState, Tier
from serving_service.core.admission_limits import TenantPolicy
from serving_service.core.service import Merging
from tests.integration.console.wordy_engine import WordyEngine, WordyMerges
from tests.store_samples import make_adapter
from tests.unit.serving.scripted_service import OPERATOR, ScriptedService

DISK = "disk"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """Of the tenant acme, which has one version of the adapter `support`; by an operator's key."""
    merging = Merging(WordyMerges(), tmp_path / "merged", 10**9, 2, start_seconds=60.0)
    store = open_store(f"file://{tmp_path}/store")
    service = ScriptedService(tmp_path, store, WordyEngine(), TenantPolicy(), merging)
    with Client(trainer=service.address, serving=service.address, api_key=OPERATOR, tenant="acme") as made:
        made.tenants.create("acme")
        made.adapters.register("support", make_adapter(tmp_path / "adapter", 1), alias="prod")
        yield made
    service.stop()


def changed(client: Client, action: str) -> dict[str, tuple[str, str]]:
    """The newest entry's changes."""
    entry = next(client.audit.list())
    assert (entry.action, entry.outcome, entry.tenant) == (action, "ok", "acme")
    assert entry.target.startswith("tenants/acme/adapters/support/versions/")
    return {change.field: (change.before, change.after) for change in entry.changes}


def test_each_step_says_where_the_version_was_and_where_it_is(client: Client) -> None:
    serving, digest = client.serving, client.adapters.version("support").digest
    serving.prefetch("support", tier=Tier.DISK)
    assert changed(client, "Prefetch") == {"tier": ("store", DISK)}
    serving.prefetch("support", tier=Tier.DISK)
    assert changed(client, "Prefetch") == {}, "it was there"
    serving.pin("support")
    assert changed(client, "Pin") == {"pinned": ("", "yes"), "tier": (DISK, "device")}
    serving.pin("support")
    assert changed(client, "Pin") == {}
    serving.unpin("support")
    assert changed(client, "Pin") == {"pinned": ("yes", "")}
    serving.pin("support")
    freed = serving.evict("support", digest)
    assert changed(client, "Evict") == {
        "pinned": ("yes", ""),
        "tier": ("device", "store"),
        "bytes on disk": (str(freed), "0"),
    }


def test_merging_says_how_far_it_was_and_who_wanted_it(client: Client) -> None:
    serving = client.serving
    assert serving.promote("support").state is MergedState.SERVING
    assert changed(client, "Promote") == {"merged": ("", "serving"), "wanted by": ("", "operator")}
    serving.promote("support")
    assert changed(client, "Promote") == {}
    (row,) = serving.merged()
    assert (row.adapter, row.wanted_by) == ("support", ("operator",))
    serving.demote("support")
    assert changed(client, "Demote") == {"merged": ("serving", "ending"), "wanted by": ("operator", "")}


def test_a_repeat_of_what_was_carried_out_tells_no_change(client: Client, tmp_path: Path) -> None:
    digest = client.adapters.version("support").digest

    def registered() -> dict[str, tuple[str, str]]:
        client.adapters.register("support", tmp_path / "adapter", alias="prod")
        return changed(client, "RegisterAdapter")

    assert registered() == {}, "the same content is the same version"
    client.adapters.delete_alias("support", "prod")
    client.adapters.delete_version("support", digest)
    assert changed(client, "DeleteVersion")["state"][0] == "there"
    before, after = registered()["version"]
    assert (before, after.split(",")[0]) == ("deleted", "registered")
    key = client.tenants.create_key("acme", "laptop").key
    for told in ([(f"key {key.id}", "good laptop", "revoked")], []):
        client.tenants.revoke_key("acme", key.id)
        entry = next(client.audit.list())
        assert [(change.field, change.before, change.after) for change in entry.changes] == told
