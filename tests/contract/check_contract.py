"""What the check promises on every backend; inherited, not run by itself. Every kind of damage is made, and found where it is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_store import AdapterStore, layout
from adapter_store.backends.protocol import Backend
from adapter_store.care.check import check
from adapter_store.care.collect import collect
from adapter_store.care.report import Finding, Severity
from tests.contract.backend_contract import Raw
from tests.contract.collect_contract import Silent, newest
from tests.contract.collected import WHO, Populated, Samples, impatient, merged_folder, populate
from tests.contract.wrapped import Aged


def findings(backend: Backend, *, deep: bool = False) -> list[Finding]:
    report = Silent()
    result = check(backend, report, deep=deep, parallel=4)
    counted = {severity: sum(each.severity == severity for each in report.findings) for severity in Severity}
    assert result["findings"] == {str(severity): number for severity, number in counted.items()}
    assert all(each.what and each.todo for each in report.findings)
    return report.findings


def damaged(backend: Backend, *, deep: bool = False) -> list[str]:
    return [each.key for each in findings(backend, deep=deep) if each.severity is Severity.DAMAGED]


class CheckContract:
    """Subclasses give `backend`, `raw` of the same empty place, and `samples`."""

    @pytest.fixture
    def made(self, backend: Backend, samples: Samples) -> Populated:
        return populate(backend, samples)

    def test_a_sound_store_has_nothing_but_notes(self, backend: Backend, made: Populated, raw: Raw) -> None:
        before = {key: raw.get(key) for key in raw.keys()}  # noqa: SIM118
        (orphans,) = findings(backend, deep=True)
        assert orphans.severity is Severity.NOTE
        assert ": 1, " in orphans.what
        assert {key: raw.get(key) for key in raw.keys()} == before  # noqa: SIM118

    def test_a_collected_store_is_sound(self, backend: Backend, samples: Samples) -> None:
        aged = Aged(backend)
        populate(aged, samples)
        aged.age()
        collect(aged, Silent())
        assert findings(backend, deep=True) == []

    def test_a_blob_that_is_gone_is_reported_once(self, backend: Backend, made: Populated) -> None:
        shared = layout.blob("acme", made.kept.file("chat_template.jinja").sha256)
        backend.delete(shared)
        (found,) = [each for each in findings(backend) if each.severity is Severity.DAMAGED]
        assert found.key == shared
        assert "is not there" in found.what
        assert "and 2 more" in found.what

    def test_a_blob_of_another_size(self, backend: Backend, made: Populated, raw: Raw) -> None:
        key = layout.blob("acme", made.dataset.sha256)
        raw.put(key, b"short")
        (found,) = [each for each in findings(backend) if each.severity is Severity.DAMAGED]
        assert found.key == key
        assert f"has 5 bytes instead of {made.dataset.size}" in found.what

    def test_a_changed_byte_is_found_when_every_byte_is_read(self, backend: Backend, made: Populated, raw: Raw) -> None:
        key = layout.blob("acme", made.kept.blobs[0].sha256)
        orphan = layout.blob("acme", made.lost.blobs[0].sha256)
        for one in (key, orphan):
            data = raw.get(one)
            assert data
            raw.put(one, data[:-1] + bytes([data[-1] ^ 1]))
        assert damaged(backend) == []
        found = {each.key: each.severity for each in findings(backend, deep=True)}
        assert (found[key], found[orphan]) == (Severity.DAMAGED, Severity.WARNING)

    def test_merged_weights_are_read_and_their_damage_is_a_warning(
        self, backend: Backend, made: Populated, samples: Samples, raw: Raw, tmp_path: Path
    ) -> None:
        store, base = AdapterStore(backend), samples.base.digest
        kept, split, lost = (
            store.merged.publish(base, version.version, merged_folder(tmp_path / name, seed))
            for seed, (name, version) in enumerate((("k", made.kept), ("s", made.split), ("d", made.deleted)))
        )
        assert all(each.severity is Severity.NOTE for each in findings(backend, deep=True))
        changed, short, missing = kept.key(kept.files[1]), split.key(split.files[1]), split.key(split.files[0])
        manifest = layout.merged_manifest(base, lost.version)
        raw.put(changed, bytes(kept.files[1].size))
        raw.put(short, b"short")
        backend.delete(missing)
        raw.put(manifest, b"{}")
        assert damaged(backend, deep=True) == [], "they are made again"
        for deep, expected in ((False, {short, missing, manifest}), (True, {changed, short, missing, manifest})):
            found = findings(backend, deep=deep)
            assert {each.key for each in found if each.severity is Severity.WARNING} == expected

    @pytest.mark.parametrize(
        "change", [lambda data: b"{}", lambda data: data.replace(b'"acme"', b'"evil"'), lambda data: b""]
    )
    def test_every_kind_of_document_that_is_damaged(
        self, backend: Backend, made: Populated, raw: Raw, change: Callable[[bytes], bytes]
    ) -> None:
        documents = [
            newest(backend, layout.tenant_log("acme")),
            layout.version("acme", "greeter", made.kept.version),
            layout.dataset("acme", made.dataset.id),
            newest(backend, layout.alias_log("acme", "greeter", "prod")),
            newest(backend, layout.deletion_log("acme", "greeter", made.deleted.version)),
            newest(backend, layout.dataset_deletion_log("acme", made.held.id)),
            newest(backend, layout.hold_log("acme", "running")),
        ]
        for key in documents:
            raw.put(key, change(raw.get(key) or b""))
        assert sorted(damaged(backend)) == sorted(documents)

    def test_documents_in_anothers_place(self, backend: Backend, made: Populated, raw: Raw) -> None:
        """Sound in themselves, with the right checksum."""
        store = impatient(backend)
        store.tenants.create("other")
        record = newest(backend, layout.tenant_log("acme"))
        places = {
            layout.version("acme", "greeter", "0" * 64): layout.version("acme", "greeter", made.kept.version),
            layout.version("other", "greeter", made.kept.version): layout.version("acme", "greeter", made.kept.version),
            layout.dataset("acme", "ds-0"): layout.dataset("acme", made.dataset.id),
            layout.alias_log("acme", "greeter", "new") + "9999999998-1.json": newest(
                backend, layout.alias_log("acme", "greeter", "prod")
            ),
            layout.tenant_log("other") + "9999999997-2.json": record,
        }
        for place, origin in places.items():
            raw.put(place, raw.get(origin) or b"")
        assert sorted(damaged(backend)) == sorted(places)

    def test_logs_with_gaps_and_foreign_objects(self, backend: Backend, made: Populated, raw: Raw) -> None:
        store = impatient(backend)
        for weight in (2, 3):
            store.tenants.update("acme", weight=weight)
        log = layout.tenant_log("acme")
        backend.delete(f"{log}9999999997-2.json")
        foreign = f"{layout.alias_log('acme', 'greeter', 'prod')}0000000000-1.json"
        raw.put(foreign, b"{}")
        found = [each for each in findings(backend) if each.severity is Severity.DAMAGED]
        assert sorted(each.key for each in found) == sorted([log, foreign])
        assert "lacks 1 of its records" in next(each.what for each in found if each.key == log)

    def test_a_log_of_holds_may_begin_late(self, backend: Backend, made: Populated) -> None:
        backend.delete(f"{layout.hold_log('acme', 'ended')}9999999998-1.json")
        assert damaged(backend) == []

    def test_aliases_that_name_what_is_not_there(self, backend: Backend, made: Populated) -> None:
        store = impatient(backend)
        store.removal._deletions.hide(layout.deletion_log("acme", "greeter", made.kept.version), "acme", **WHO)
        backend.delete(layout.version("acme", "greeter", made.split.version))
        found = {(each.key, each.severity) for each in findings(backend)}
        prod, canary = (newest(backend, layout.alias_log("acme", "greeter", alias)) for alias in ("prod", "canary"))
        assert {(prod, Severity.WARNING), (canary, Severity.WARNING), (canary, Severity.DAMAGED)} <= found
        assert len([one for one in found if one[1] is Severity.DAMAGED]) == 1

    def test_a_tenant_without_a_record_and_unknown_objects(self, backend: Backend, made: Populated, raw: Raw) -> None:
        backend.delete(newest(backend, layout.tenant_log("acme")))
        strange = ["v1/tenants/acme/plans/x", "v1/tenants/Bad Name/record/x", "v1/other", "v1/tenants/acme/blobs/md5/x"]
        for key in strange:
            raw.put(key, b"?")
        found = findings(backend)
        assert [each.key for each in found if each.severity is Severity.DAMAGED] == [layout.tenant("acme")]
        assert sorted(each.key for each in found if each.severity is Severity.WARNING) == sorted(strange)

    def test_a_removal_that_has_not_ended_and_an_old_hold_are_mentioned(
        self, backend: Backend, samples: Samples
    ) -> None:
        aged = Aged(backend)
        made = populate(aged, samples)
        store = impatient(aged)
        log = store.removal._deletions._log(layout.deletion_log("acme", "greeter", made.deleted.version))
        current = log.current()
        assert current
        log.append(current.model_copy(update={"number": 2, "state": "purging"}))
        aged.age(20)
        report = Silent()
        check(aged, report)
        assert any("has begun and not ended" in each.what for each in report.findings)
        (hold,) = [each for each in report.findings if each.severity is Severity.WARNING]
        assert "graft store release running --tenant acme" in hold.todo
