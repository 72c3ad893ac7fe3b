"""What a job's worker notes in the audit log goes through its service's outbox: in the service's chain, once however often it is tried."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adapter_store import Provenance, open_store, read_base
from adapter_store.audit_outbox import Outbox
from tests.store_samples import make_adapter, make_base
from trainer_service.engine.publish import move_alias, moved_before, publish


def test_a_workers_entries_are_in_its_services_chain_and_a_repeat_adds_none(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    store.tenants.create("acme")
    base, folder = read_base(make_base(tmp_path / "base")), make_adapter(tmp_path / "adapter", 1)
    outbox = Outbox(store.audit, tmp_path / "out")
    for job in ("first", "first", "second"):
        spec: Any = SimpleNamespace(
            tenant="acme", adapter="a", alias="prod", job=job, signing_key_file=None, audit_folder=tmp_path / "out"
        )
        made = publish(store, spec, folder, base, Provenance(made_by=f"tenants/acme/jobs/{job}"))
        moved_before(store, spec, made.version) or move_alias(store, spec, made.version)
        assert outbox.flush(30)
    verdict = store.audit.verify(outbox.head)
    outbox.close(10)
    entries = store.audit.page().items
    assert [(entry.action, entry.actor.rpartition("/")[2], len(entry.changes)) for entry in entries] == [
        ("PublishVersion", "second", 0),  # the same content was there
        ("SetAlias", "first", 2),
        ("PublishVersion", "first", 1),
    ]
    assert (verdict.entries, verdict.unchained, list(verdict.problems)) == (3, 0, [])
