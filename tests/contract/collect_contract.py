"""What garbage collection promises on every backend; inherited, not run by itself.

- What an alias names, a job holds or a grace time protects survives, down to its bytes, whatever is damaged beside it.
- What nothing protects goes, in one run; the next one finds nothing. A dry run says the same and removes nothing.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapter_store import layout
from adapter_store.backends.protocol import Backend
from adapter_store.care.collect import collect
from adapter_store.care.report import Finding
from adapter_store.care.round import Round
from adapter_store.errors import NotFound, StoreUnavailable
from adapter_store.manifest import DeletionRecord
from adapter_store.numbered_log import NumberedLog
from adapter_store.sweeps import LIFE, Sweeps
from tests.contract.collected import (
    WHO,
    Place,
    Populated,
    Samples,
    assert_sound,
    assert_whole,
    impatient,
    merged_folder,
    populate,
)
from tests.contract.wrapped import Aged, Wrapped

REMOVED = {"versions": 1, "data sets": 1, "blobs": 3, "holds of ended jobs": 2}
"""What `populate` leaves to collect: the weights of `deleted` and `lost` and one data set; their settings and template are shared
with versions that stay."""


class Silent:
    """A report that keeps its findings."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def progress(self, phase: str, done: int, total: int | None, unit: str = "objects") -> None:
        assert total is None or done <= total

    def finding(self, finding: Finding) -> None:
        self.findings.append(finding)


class Died(BaseException):
    """As a killed process: no `except Exception` goes on."""


class DiesAtDelete(Wrapped):
    """Dies before its k-th deletion below a prefix."""

    def __init__(self, backend: Backend, prefix: str, at: int) -> None:
        super().__init__(backend)
        self._prefix, self._left = prefix, at

    def before(self, method: str, key: str) -> None:
        if method == "delete" and key.startswith(self._prefix):
            self._left -= 1
            if not self._left:
                raise Died


def gc(backend: Backend, *, dry_run: bool = False, parallel: int = 1) -> Round:
    return collect(backend, Silent(), dry_run=dry_run, parallel=parallel)


def objects(done: Round) -> dict[str, int]:
    return {what: amount.objects for what, amount in done.removed.amounts.items()}


def keys(backend: Backend) -> set[str]:
    return {entry.key for entry in backend.walk("v1/")}


def steps(stride: int) -> Iterator[int]:
    """The steps at which a test stops what it is about, the first one first; the test ends when there was no such step."""
    yield from range(1, 1000, stride)
    pytest.fail("no end of steps")


class Collecting:
    """What the suites of garbage collection share. Subclasses give `place` and `samples`."""

    stride = 1
    """Every how many steps something is interrupted, but for a publisher inside a collection, which is tried at each."""

    @pytest.fixture
    def backend(self, place: Place) -> Aged:
        return Aged(place.open())

    @pytest.fixture
    def made(self, backend: Aged, samples: Samples) -> Populated:
        made = populate(backend, samples)
        backend.age()
        return made


class CollectContract(Collecting):
    """What is removed and what stays."""

    def test_what_nothing_protects_goes_and_the_rest_stays(self, backend: Aged, made: Populated) -> None:
        before = keys(backend)
        planned = gc(backend, dry_run=True)
        assert keys(backend) == before, "a dry run removes nothing"
        done = gc(backend, parallel=4)
        assert objects(done) == objects(planned) == REMOVED
        assert done.removed.plain() == planned.removed.plain(), "and says the same, bytes included"
        assert done.kept.plain() == {"a running job needs it": {"objects": 1, "bytes": 0}}
        assert done.left_alone == []
        store = impatient(backend)
        assert_whole(store, made)
        with pytest.raises(NotFound):
            store.versions.read("acme", "greeter", made.deleted.version)
        with pytest.raises(NotFound):
            store.datasets.read("acme", made.deleted_dataset.id)
        assert objects(gc(backend)) == {}, "nothing is left for a second run"

    def test_the_log_tells_who_removed_what(self, backend: Aged, made: Populated) -> None:
        gc(backend)
        log = layout.deletion_log("acme", "greeter", made.deleted.version)
        records = NumberedLog(backend, log, DeletionRecord, "x").history(limit=10)
        assert [record.state for record in records] == ["purged", "purging", "deleted"]
        assert records[0].by == "garbage collection"

    def test_a_hold_that_is_released_protects_no_longer(self, backend: Aged, made: Populated) -> None:
        gc(backend)
        impatient(backend).holds.release("acme", "running", by="tests")
        assert objects(gc(backend)) == {"data sets": 1, "blobs": 1}
        backend.age()
        assert objects(gc(backend)) == {"holds of ended jobs": 2}

    def test_a_log_of_holds_goes_as_a_whole(self, backend: Aged, made: Populated) -> None:
        """A copy writes the newest record first; without it, the older one would hold again."""
        gc(backend)
        log = layout.hold_log("acme", "copied")
        older, newer = (f"{log}{9999999999 - number}-{number}.json" for number in (1, 2))
        store = impatient(backend)
        store.holds.hold("acme", "copied", [made.dataset.id], by="tests")
        store.holds.release("acme", "copied", by="tests")
        backend.age()
        data = b"".join(backend.read(older))
        backend.delete(older)
        backend.create(older, data)
        assert objects(gc(backend)) == {}
        assert {older, newer} <= keys(backend)
        backend.age()
        assert objects(gc(backend)) == {"holds of ended jobs": 2}

    @pytest.mark.parametrize("needed_by", ["alias", "split", "job"])
    def test_what_is_needed_keeps_its_bytes_though_its_manifest_is_lost(
        self, backend: Aged, made: Populated, needed_by: str
    ) -> None:
        """The manifest may come back from a backup; weights that were collected would not."""
        lost = {
            "alias": layout.version("acme", "greeter", made.kept.version),
            "split": layout.version("acme", "greeter", made.split.version),
            "job": layout.dataset("acme", made.held.id),
        }[needed_by]
        data = b"".join(backend.read(lost))
        backend.delete(lost)
        for dry_run in (True, False):
            done = gc(backend, dry_run=dry_run)
            assert "blobs" not in objects(done)
            assert [finding.key for finding in done.left_alone] == [lost]
        backend.create(lost, data)
        assert_whole(impatient(backend), made)
        assert objects(gc(backend)) == {"blobs": 3}

    def test_what_is_young_stays(self, backend: Aged, samples: Samples) -> None:
        """The deletions' own grace time is over, that of bytes and holds is not."""
        made = populate(backend, samples)
        done = gc(backend)
        assert objects(done) == {"versions": 1, "data sets": 1}
        assert done.kept.plain()["blobs without a manifest, younger than the grace time"]["objects"] == 3
        assert_whole(impatient(backend), made)

    @pytest.mark.parametrize("wrong", [timedelta(), -timedelta(days=3000)], ids=["right", "years behind"])
    def test_a_deletions_grace_time_is_kept_whatever_clock_the_deleting_machine_had(
        self, backend: Aged, made: Populated, wrong: timedelta
    ) -> None:
        gc(backend)
        now = datetime.now(UTC) + wrong
        log = NumberedLog(backend, layout.dataset_deletion_log("acme", made.dataset.id), DeletionRecord, "x")
        record = {"number": 1, "tenant": "acme", "state": "deleted", "at": now, "by": "tests"}
        log.append(DeletionRecord.model_validate(record | {"purge_after": now + timedelta(hours=1)}))
        assert objects(gc(backend)) == {}
        assert impatient(backend).datasets.read("acme", made.dataset.id) == made.dataset
        backend.age()  # by two days
        assert objects(gc(backend)) == ({} if not wrong else {"data sets": 1, "blobs": 1})

    def test_the_collecting_machines_clock_plays_no_part(
        self, backend: Aged, samples: Samples, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = populate(backend, samples)
        store = impatient(backend)
        store.removal._deletions._grace = timedelta(days=7)
        store.aliases.remove("acme", "greeter", "canary", **WHO)
        store.removal.delete_version("acme", "greeter", made.split.version, **WHO)
        gc(backend)
        for module in ("round", "collect", "purge", "orphans", "leftovers"):
            module = __import__(f"adapter_store.care.{module}", fromlist=["x"])
            assert not {"time", "datetime.now"} & set(vars(module)), "none of them has a clock"
        assert objects(gc(backend)) == {}
        assert store.versions.read("acme", "greeter", made.split.version) == made.split

    def test_traces_of_dead_writers_go_when_they_are_old(self, backend: Aged, made: Populated, place: Place) -> None:
        gc(backend)
        version = made.kept.version
        for key in (
            layout.probe_object(),
            layout.new_sweep("acme"),
            f"{layout.adapters('acme')}greeter/signatures/{made.lost.version}/key.json",
            f"{layout.adapters('acme')}greeter/signatures/{version}/key.json",
        ):
            assert backend.create(key, b"{}")
        place.leave_unfinished(backend)
        assert objects(gc(backend)) == {}
        backend.age()
        assert objects(gc(backend)) == {"notices of removal": 1, "probes": 1, "signatures": 1, "unfinished writes": 1}
        assert {key.rsplit("/", 2)[1] for key in keys(backend) if "/signatures/" in key} == {version}

    def test_merged_weights_go_with_the_last_version_of_that_digest(
        self, backend: Aged, made: Populated, samples: Samples, tmp_path: Path
    ) -> None:
        store, base = impatient(backend), samples.base.digest
        store.tenants.create("other")
        folder = merged_folder(tmp_path / "merged")
        for version in (made.kept, made.split, made.deleted):
            store.merged.publish(base, version.version, folder)
        # The same content at another tenant is the same digest.
        again = samples.publish(store, 2, tenant="other")
        assert again.version == made.deleted.version
        backend.age()
        assert "merged weights" not in objects(gc(backend)), "another tenant has it"
        store.removal.delete_version("other", "greeter", again.version, **WHO)
        done = gc(backend, dry_run=True)
        assert (objects(done)["versions"], "merged weights" in objects(done)) == (1, True)
        assert store.merged.find(base, again.version)
        assert objects(gc(backend))["merged weights"] == 3, "the manifest and both files"
        assert not list(backend.walk(layout.merged(base, again.version)))
        for version in (made.kept, made.split):
            store.merged.fetch(base, version.version, tmp_path / version.version)

    def test_merged_weights_go_as_a_whole_or_not_at_all(
        self, backend: Aged, made: Populated, samples: Samples, tmp_path: Path
    ) -> None:
        store, base, gone = impatient(backend), samples.base.digest, made.lost.version
        merged = store.merged.publish(base, gone, merged_folder(tmp_path / "merged"))
        assert "merged weights" not in objects(gc(backend)), "they are young"
        backend.age()
        backend.put_file(merged.key(merged.files[0]), tmp_path / "merged" / merged.files[0].path)
        assert "merged weights" not in objects(gc(backend)), "somebody is publishing them"
        backend.age()
        with pytest.raises(Died):
            gc(DiesAtDelete(backend, layout.MERGED, 1))
        assert store.merged.fetch(base, gone, tmp_path / "whole") == merged
        with pytest.raises(Died):
            gc(DiesAtDelete(backend, layout.MERGED, 2))
        assert store.merged.find(base, gone) is None, "a collector that dies leaves nothing that is found and not whole"
        assert objects(gc(backend)) == {"merged weights": 2}
        assert not list(backend.walk(layout.MERGED))

    def test_what_a_publisher_of_merged_weights_left_who_died(
        self, backend: Aged, made: Populated, samples: Samples, tmp_path: Path
    ) -> None:
        store, base, version = impatient(backend), samples.base.digest, made.kept.version
        store.merged.publish(base, version, merged_folder(tmp_path / "merged"))
        backend.delete(layout.merged_manifest(base, version))
        assert "merged weights" not in objects(gc(backend))
        backend.age()
        assert objects(gc(backend)) == {"merged weights": 2}

    def test_damage_stops_what_it_makes_unsafe_and_nothing_else(
        self, backend: Aged, samples: Samples, place: Place
    ) -> None:
        """A damaged manifest may name any blob, a damaged alias any version, a damaged hold any data set."""
        for what, key_of, removed in (
            ("manifest", lambda made: layout.version("acme", "greeter", made.kept.version), {"blobs"}),
            (
                "alias",
                lambda made: newest(backend, layout.alias_log("acme", "greeter", "canary")),
                {"versions", "blobs"},
            ),
            ("hold", lambda made: newest(backend, layout.hold_log("acme", "running")), {"data sets", "blobs"}),
        ):
            for key in keys(backend):
                backend.delete(key)
            made = populate(backend, samples)
            place.damage(backend, key_of(made), b"{}")
            backend.age()
            done = gc(backend)
            assert len(done.left_alone) == (1 if what == "manifest" else 2), what
            assert all(finding.todo for finding in done.left_alone)
            found = objects(done)
            assert found.keys() >= REMOVED.keys() - removed, what
            assert not found.keys() & removed - ({"versions"} if what == "manifest" else set()), what
            if what != "manifest":
                assert_sound(impatient(backend), made.kept)

    @pytest.mark.parametrize(
        "key", ["v1/tenants/acme/plans/one.json", "v1/tenants/acme/adapters/greeter/versions/x.json"]
    )
    def test_an_unknown_object_keeps_its_tenants_blobs(self, backend: Aged, made: Populated, key: str) -> None:
        backend.create(key, b"?")
        backend.age()
        done = gc(backend)
        assert "blobs" not in objects(done)
        assert [finding.key for finding in done.left_alone] == [key]

    def test_a_tenant_without_a_record_is_left_alone(self, backend: Aged, made: Populated) -> None:
        backend.delete(newest(backend, layout.tenant_log("acme")))
        before = keys(backend)
        done = gc(backend)
        assert objects(done) == {}
        assert keys(backend) == before
        assert len(done.left_alone) == 1

    def test_a_dead_collectors_notice_binds_for_its_life_only(
        self, backend: Aged, made: Populated, samples: Samples
    ) -> None:
        blob = layout.blob("acme", made.lost.blobs[0].sha256)
        with pytest.raises(Died), Sweeps(backend).announced("acme", [blob], datetime.now(UTC)):
            raise Died
        store = impatient(backend)
        with pytest.raises(StoreUnavailable, match="garbage collection"):
            samples.publish(store, 3)
        samples.publish(store, 4)
        backend.age()
        assert timedelta(days=2) > LIFE
        assert_sound(store, samples.publish(store, 3))

    def test_nothing_is_removed_under_a_notice_that_has_grown_old(self, backend: Aged, made: Populated) -> None:
        """The run goes on with another one; what takes a minute each time ends in an error instead of a loop."""
        for seconds, outcome in ((10.0, "done"), (70.0, "too slow")):
            times = iter(range(100000))
            sweeps = Sweeps(backend, clock=lambda times=times, seconds=seconds: next(times) * seconds)
            if outcome == "done":
                collect(backend, Silent(), sweeps=sweeps)
                assert objects(gc(backend)) == {}
        assert_whole(impatient(backend), made)


def newest(backend: Backend, log: str) -> str:
    return log + backend.children(log, limit=1)[0]
