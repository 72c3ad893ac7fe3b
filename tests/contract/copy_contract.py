"""What the copy promises between every two backends; inherited, not run by itself.

- A finished copy holds the same objects, byte for byte, and is a store that works; the next run writes nothing.
- A copy that dies at any step shows nothing half, and the next run finishes it. The same when the source is used meanwhile.
- What is damaged in the source is left out with all that names it; what contradicts the source is never written over.
"""

from pathlib import Path

import pytest

from adapter_store import AdapterStore, layout
from adapter_store.audit import AuditEntry, new_id, now
from adapter_store.backends.protocol import Backend
from adapter_store.care import keys
from adapter_store.care.check import check
from adapter_store.care.collect import collect
from adapter_store.care.copy import Copied, copy
from adapter_store.care.keys import Kind
from adapter_store.care.report import Severity
from adapter_store.errors import CopyRefused, NotFound, StoreUnavailable
from tests.contract.collect_contract import Died, Silent, newest, steps
from tests.contract.collected import WHO, Place, Populated, Samples, assert_whole, impatient, merged_folder, populate
from tests.contract.wrapped import Aged, Interrupted, Wrapped


def run(source: Backend, destination: Backend, parallel: int = 1, report: Silent | None = None) -> Copied:
    return copy(source, destination, report or Silent(), parallel=parallel)


def contents(backend: Backend) -> dict[str, bytes]:
    found = (entry.key for entry in backend.walk("v1/") if keys.parse(entry.key).kind not in (Kind.PROBE, Kind.SWEEP))
    return {key: b"".join(backend.read(key)) for key in found}


def assert_nothing_half(backend: Backend) -> None:
    """Everything that is there has all that it names: of logs, the newest record. A tenant without a record is not visible."""
    report = Silent()
    check(backend, report, deep=True)
    damaged = {each.what for each in report.findings if each.severity is Severity.DAMAGED}
    expected = ("has objects and no record", "of its records")
    assert [what for what in damaged if not what.endswith(expected)] == []
    if list(backend.walk(layout.aliases("acme", "greeter"))):
        assert AdapterStore(backend).tenants.get("acme")


class CopyContract:
    """Subclasses give `place` for sources, `destinations`, and `samples`."""

    stride = 1
    """Every how many steps something is interrupted."""

    @pytest.fixture
    def source(self, place: Place) -> Backend:
        return place.open()

    @pytest.fixture
    def made(self, source: Backend, samples: Samples, tmp_path: Path) -> Populated:
        made = populate(source, samples)
        AdapterStore(source).merged.publish(samples.base.digest, made.kept.version, merged_folder(tmp_path / "merged"))
        for tenant in ("acme", ""):
            entry = AuditEntry(
                id=new_id(), at=now(), service="s", actor="a", action="Populate", tenant=tenant, outcome="ok"
            )
            AdapterStore(source).audit.append(entry)
        return made

    @pytest.fixture
    def destination(self, destinations: Place) -> Backend:
        return destinations.open()

    def test_a_copy_is_the_same_store(
        self, source: Backend, destination: Backend, made: Populated, tmp_path: Path
    ) -> None:
        source.create(layout.probe_object(), b"x")
        source.create(layout.new_sweep("acme"), b"x")
        done = run(source, destination, parallel=4)
        assert contents(destination) == contents(source)
        assert done.objects == len(contents(source))
        assert (done.left_out, done.behind, done.unknown) == (0, 0, 0)
        store = impatient(destination)
        assert_whole(store, made)
        store.versions.fetch(made.kept, tmp_path / "out")
        assert_nothing_half(destination)

    def test_a_second_run_writes_nothing_and_a_later_one_catches_up(
        self, source: Backend, destination: Backend, made: Populated, samples: Samples
    ) -> None:
        run(source, destination)
        assert run(source, destination).objects == 0
        store = impatient(source)
        version = samples.publish(store, 5)
        store.aliases.set("acme", "greeter", "prod", version.version, **WHO)
        store.tenants.create("other")
        caught = run(source, destination)
        assert caught.objects == 4, "weights, manifest, alias record, tenant record"
        assert contents(destination) == contents(source)

    def test_a_copy_that_died_at_any_step(self, source: Backend, destinations: Place, made: Populated) -> None:
        def die() -> None:
            raise Died

        for at in steps(self.stride):
            destination = destinations.open()
            try:
                run(source, Interrupted(destination, at, die))
                break
            except Died:
                assert_nothing_half(destination)
            run(source, destination)
            assert contents(destination).keys() == contents(source).keys(), at
            assert contents(destination) == contents(source)
        assert at > 50

    def test_a_source_that_is_used_meanwhile(self, place: Place, destinations: Place, samples: Samples) -> None:
        behind = set()
        for at in steps(self.stride):
            source, destination = place.open(), destinations.open()
            populate(source, samples)

            def use(source: Backend = source) -> None:
                store = impatient(source)
                version = samples.publish(store, 5)
                store.aliases.set("acme", "greeter", "prod", version.version, **WHO)
                store.holds.release("acme", "running", by="tests")

            inside = Interrupted(source, at, use)
            behind.add(run(inside, destination).behind > 0)
            assert_nothing_half(destination)
            if inside.calls < at:
                break
            assert run(source, destination).behind == 0
            assert contents(destination) == contents(source)
        assert behind == {False, True}
        assert at > 30

    def test_what_was_collected_in_the_source_between_two_runs(
        self, source: Backend, destination: Backend, made: Populated
    ) -> None:
        """The destination then has manifests whose log says that they are gone; its own collection removes them."""
        run(source, destination)
        collect(source, Silent())
        assert run(source, destination).left_out == 0
        extra = contents(destination).keys() - contents(source).keys()
        manifest = layout.version("acme", "greeter", made.deleted.version)
        assert extra == {manifest, layout.dataset("acme", made.deleted_dataset.id)}
        with pytest.raises(NotFound):
            AdapterStore(destination).versions.get("acme", "greeter", made.deleted.version)
        aged = Aged(destination)
        aged.age()
        collect(aged, Silent())
        assert manifest not in contents(destination)
        assert_whole(impatient(destination), made)

    def test_a_damaged_blob_takes_along_what_names_it_and_nothing_else(
        self, source: Backend, destination: Backend, made: Populated, place: Place
    ) -> None:
        blob = layout.blob("acme", made.split.blobs[0].sha256)
        place.damage(source, blob, b"x" * made.split.blobs[0].size)
        report = Silent()
        done = run(source, destination, report=report)
        canary = newest(source, layout.alias_log("acme", "greeter", "canary"))
        manifest = layout.version("acme", "greeter", made.split.version)
        assert {each.key for each in report.findings} == {blob, manifest, canary}
        assert done.left_out == 3
        assert contents(source).keys() - contents(destination).keys() == {blob, manifest, canary}
        assert_nothing_half(destination)
        store = impatient(destination)
        assert store.resolve("acme", "greeter").version == made.kept.version

    def test_damaged_merged_weights_are_left_out_with_their_manifest(
        self, source: Backend, destination: Backend, made: Populated, place: Place, samples: Samples
    ) -> None:
        merged = AdapterStore(source).merged.find(samples.base.digest, made.kept.version)
        assert merged
        for damage in (b"x" * merged.files[1].size, b"short"):
            place.damage(source, merged.key(merged.files[1]), damage)
            assert run(source, destination).left_out == 2
            assert contents(source).keys() - contents(destination).keys() == {
                merged.key(merged.files[1]),
                layout.merged_manifest(merged.base_digest, merged.version),
            }
            assert AdapterStore(destination).merged.find(merged.base_digest, merged.version) is None
            assert_whole(impatient(destination), made)

    def test_a_destination_that_merged_for_itself_keeps_its_own(
        self, source: Backend, destination: Backend, made: Populated, samples: Samples, tmp_path: Path
    ) -> None:
        run(source, destination)
        other = AdapterStore(destination).merged
        other.remove(samples.base.digest, made.kept.version)
        own = other.publish(samples.base.digest, made.kept.version, merged_folder(tmp_path / "own", seed=1))
        done = run(source, destination)
        assert (done.left_out, done.behind) == (0, 0)
        assert other.fetch(samples.base.digest, made.kept.version, tmp_path / "out") == own

    def test_a_damaged_record_of_history_costs_that_record_only(
        self, source: Backend, destination: Backend, made: Populated, place: Place
    ) -> None:
        store = impatient(source)
        for weight in (2, 3):
            store.tenants.update("acme", weight=weight)
        record = f"{layout.tenant_log('acme')}9999999997-2.json"
        place.damage(source, record, b"{}")
        assert run(source, destination).left_out == 1
        assert contents(source).keys() - contents(destination).keys() == {record}
        assert AdapterStore(destination).tenants.get("acme").weight == 3

    def test_what_contradicts_is_refused_before_anything_is_written(
        self, source: Backend, destination: Backend, made: Populated, samples: Samples
    ) -> None:
        other = AdapterStore(destination)
        other.tenants.create("acme")
        before = contents(destination)
        with pytest.raises(CopyRefused, match="tenant record 1 of tenant acme"):
            run(source, destination)
        assert contents(destination) == before

    def test_a_destination_that_went_on_by_itself_is_refused(
        self, source: Backend, destination: Backend, made: Populated
    ) -> None:
        run(source, destination)
        impatient(destination).aliases.set("acme", "greeter", "prod", made.split.version, **WHO)
        before = contents(destination)
        with pytest.raises(CopyRefused, match="alias record 3 of prod"):
            run(source, destination)
        assert contents(destination) == before

    def test_another_tenant_in_the_destination_may_stay(
        self, source: Backend, destination: Backend, made: Populated
    ) -> None:
        AdapterStore(destination).tenants.create("other")
        run(source, destination)
        assert [record.tenant for record in AdapterStore(destination).tenants.list().items] == ["acme", "other"]
        assert_whole(impatient(destination), made)

    def test_a_store_is_not_copied_onto_itself(self, source: Backend, made: Populated) -> None:
        before = contents(source)
        with pytest.raises(CopyRefused, match="one store"):
            run(source, source)
        assert contents(source) == before

    def test_a_blob_that_the_destination_has_in_another_size_is_written_anew(
        self, source: Backend, destination: Backend, made: Populated, tmp_path: Path
    ) -> None:
        (tmp_path / "short").write_bytes(b"short")
        destination.put_file(layout.blob("acme", made.kept.blobs[0].sha256), tmp_path / "short")
        run(source, destination)
        assert contents(destination) == contents(source)

    def test_a_destination_that_keeps_other_bytes_is_noticed(
        self, source: Backend, destination: Backend, made: Populated, tmp_path: Path
    ) -> None:
        class Forgetful(Wrapped):
            def put_file(self, key: str, file: Path) -> None:
                data = file.read_bytes()
                file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
                super().put_file(key, file)

        with pytest.raises(StoreUnavailable, match="other bytes"):
            run(source, Forgetful(destination))

    def test_unknown_objects_are_told_and_not_copied(
        self, source: Backend, destination: Backend, made: Populated
    ) -> None:
        source.create("v1/tenants/acme/plans/x.json", b"?")
        report = Silent()
        done = run(source, destination, report=report)
        assert (done.unknown, done.left_out) == (1, 0)
        assert [each.severity for each in report.findings] == [Severity.WARNING]
