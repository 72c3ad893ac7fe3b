"""What garbage collection promises beside others, on every backend; inherited, not run by itself.

- A publisher that runs inside a collection, or a collection inside a publisher, at any step of either: what was said to be published
  is whole, and what was refused can be published once the collection is over. The same for a second collection, an alias, a job.
- A collection that dies at any step has removed nothing that it should not have, and the next one finishes.
"""

from collections.abc import Callable
from functools import partial

import pytest

from adapter_store import AdapterStore, documents, layout
from adapter_store.backends.protocol import Backend
from adapter_store.care.round import Round
from adapter_store.errors import BeingPurged, InUse, NotFound, StoreUnavailable
from adapter_store.holds import Holds
from tests.contract.collect_contract import Collecting, Died, gc, keys, objects, steps
from tests.contract.collected import (
    WHO,
    Place,
    Populated,
    Samples,
    assert_sound,
    assert_whole,
    impatient,
    lose_again,
    populate,
)
from tests.contract.wrapped import Aged, Interrupted, Wrapped


def publish(backend: Backend, samples: Samples) -> list[str]:
    """Publishes, with one publisher each, all that `populate` leaves to collect; checks what was said to be published.

    Returns:
        What was refused because it was being removed.
    """
    store, refused = impatient(backend), []
    for seed in (2, 3):
        try:
            assert_sound(store, samples.publish(store, seed))
        except (BeingPurged, StoreUnavailable):
            refused.append(f"version {seed}")
    try:
        dataset = samples.upload(store, 2)
        assert store.datasets.get("acme", dataset.id) == dataset
    except (BeingPurged, StoreUnavailable):
        refused.append("data set 2")
    return refused


def assert_published(backend: Backend, samples: Samples, made: Populated, refused: list[str]) -> None:
    """What `publish` did not refuse is whole; the rest can be published now."""
    store = impatient(backend)
    for seed, version in ((2, made.deleted), (3, made.lost)):
        if f"version {seed}" in refused:
            samples.publish(store, seed)
        assert_sound(store, store.versions.get("acme", "greeter", version.version))
    if "data set 2" in refused:
        samples.upload(store, 2)
    dataset = store.datasets.get("acme", made.deleted_dataset.id)
    assert store.datasets._blobs.digest("acme", dataset.sha256) == (dataset.sha256, dataset.size)
    assert_whole(store, made)


class CollectRacesContract(Collecting):
    """Everything is tried at every step, or at every `stride`-th."""

    @pytest.fixture
    def stage(self, backend: Aged, samples: Samples) -> Callable[[], tuple[Aged, Populated]]:
        """Sets the stage, for the next time once everything has been published again."""
        made: list[Populated] = []

        def stage() -> tuple[Aged, Populated]:
            if made:
                lose_again(backend, made[0])
            else:
                made.append(populate(backend, samples))
            backend.age()
            return backend, made[0]

        return stage

    def test_a_publisher_at_any_step_of_a_collection(
        self, stage: Callable[[], tuple[Aged, Populated]], samples: Samples
    ) -> None:
        ends = []
        for at in steps(1):
            backend, made = stage()
            refused: list[str] = []

            def act(backend: Backend = backend, refused: list[str] = refused) -> None:
                refused += publish(backend, samples)

            inside = Interrupted(backend, at, act)
            gc(inside)
            if inside.calls < at:
                break
            assert_published(backend, samples, made, refused)
            ends.append(len(refused))
        assert len(ends) > 30
        assert {0, 1} <= set(ends), "some steps refuse something"

    def test_a_collection_at_any_step_of_a_publisher(
        self, stage: Callable[[], tuple[Aged, Populated]], samples: Samples
    ) -> None:
        for at in steps(self.stride):
            backend, made = stage()
            inside = Interrupted(backend, at, partial(gc, backend))
            refused = publish(inside, samples)
            assert_published(backend, samples, made, refused)
            if inside.calls < at:
                break
        assert at > 30

    def test_another_collection_and_then_a_publisher_at_any_step_of_a_collection(
        self, stage: Callable[[], tuple[Aged, Populated]], samples: Samples
    ) -> None:
        """The slower collector must not remove what was published after the faster one was through."""
        for at in steps(self.stride):
            backend, made = stage()
            refused: list[str] = []

            def act(backend: Backend = backend, refused: list[str] = refused) -> None:
                gc(backend)
                assert objects(gc(backend)) == {}
                refused += publish(backend, samples)

            inside = Interrupted(backend, at, act)
            gc(inside)
            if inside.calls < at:
                break
            assert_published(backend, samples, made, refused)
        assert at > 30

    def test_a_collection_that_died_at_any_step(
        self, stage: Callable[[], tuple[Aged, Populated]], samples: Samples
    ) -> None:
        def die() -> None:
            raise Died

        for at in steps(self.stride):
            backend, made = stage()
            try:
                gc(Interrupted(backend, at, die))
                break
            except Died:
                assert_whole(impatient(backend), made)
            refused = publish(backend, samples)
            gc(backend)  # goes on with purges that the dead one began
            backend.age()  # its notice binds nobody any more
            assert_published(backend, samples, made, refused)
            gc(backend)
            assert_published(backend, samples, made, [])
            assert not [key for key in keys(backend) if "/sweeps/" in key]
            hold = impatient(backend).holds.current("acme", "ended")
            assert hold is None or hold.state == "released", "half a log must not protect again"
        assert at > 30

    def test_an_alias_that_was_on_its_way_wins_or_goes_back(self, place: Place, samples: Samples) -> None:
        """A version is deleted and collected, without any grace time, at every step of an alias that moves to it."""
        outcomes = set()
        for at in steps(1):  # each of the three outcomes may have one step only
            backend = Aged(place.open())
            made = populate(backend, samples)
            backend.age()
            store = impatient(backend)
            store.aliases.remove("acme", "greeter", "canary", **WHO)
            target = made.split.version

            def delete_and_collect(store: AdapterStore = store, backend: Aged = backend, target: str = target) -> None:
                store.removal.delete_version("acme", "greeter", target, **WHO)
                backend.age()
                gc(backend)

            inside = Interrupted(backend, at, delete_and_collect)
            try:
                impatient(inside).aliases.set("acme", "greeter", "prod", target, **WHO)
                outcomes.add("moved")
                if inside.calls >= at:
                    assert_sound(store, made.split)
            except NotFound:
                outcomes.add("went back")
                assert store.resolve("acme", "greeter").version == made.kept.version
                assert store.aliases.list("acme", "greeter")[0].version == made.kept.version
            except InUse:
                outcomes.add("deletion refused")
            if inside.calls < at:
                break
        assert outcomes == {"moved", "went back", "deletion refused"}

    def test_a_version_that_an_alias_came_to_name_stays_though_its_mover_died(
        self, backend: Aged, made: Populated
    ) -> None:
        """Deleted between the mover's look and its record; the mover dies before its second look, at which it would go back."""
        store = impatient(backend)
        store.aliases.remove("acme", "greeter", "canary", **WHO)
        target, prefix = made.split.version, layout.aliases("acme", "greeter")

        class DyingMover(Wrapped):
            def create(self, key: str, data: bytes) -> bool:
                assert key.startswith(prefix)
                store.removal.delete_version("acme", "greeter", target, **WHO)
                assert super().create(key, data)
                raise Died

        with pytest.raises(Died):
            impatient(DyingMover(backend)).aliases.set("acme", "greeter", "prod", target, **WHO)
        backend.age()
        done = gc(backend)
        manifest = layout.version("acme", "greeter", target)
        assert backend.entry(manifest) is not None
        assert done.kept.amounts["an alias names it"].objects == 1
        for file in made.split.files:
            assert store.versions._blobs.digest("acme", file.sha256) == (file.sha256, file.size)
        store.aliases.set("acme", "greeter", "prod", made.kept.version, **WHO)
        gc(backend)
        assert backend.entry(manifest) is None

    def test_a_collection_looks_once_more_behind_its_own_record(self, backend: Aged, made: Populated) -> None:
        """The mover's record comes after the collector's first look, and the mover dies before its own second one."""
        store, done = impatient(backend), list[Round]()
        store.aliases.remove("acme", "greeter", "canary", **WHO)
        target, deletions = made.split.version, layout.deletions("acme", "greeter")

        class Overtaken(Wrapped):
            """A collector's store: the mover's record is written right before the collector's own."""

            def __init__(self, mover: Callable[[], bool]) -> None:
                super().__init__(backend)
                self._mover: Callable[[], bool] | None = mover

            def create(self, key: str, data: bytes) -> bool:
                if self._mover is not None and key.startswith(deletions) and target in key:
                    mover, self._mover = self._mover, None
                    assert mover()
                return super().create(key, data)

        class DyingMover(Wrapped):
            def create(self, key: str, data: bytes) -> bool:
                store.removal.delete_version("acme", "greeter", target, **WHO)
                backend.age()
                done.append(gc(Overtaken(partial(backend.create, key, data))))
                raise Died

        with pytest.raises(Died):
            impatient(DyingMover(backend)).aliases.set("acme", "greeter", "prod", target, **WHO)
        manifest = layout.version("acme", "greeter", target)
        assert backend.entry(manifest) is not None
        assert [it.key for it in done[0].left_alone] == [manifest], "its removal has begun, so an operator is told"
        store.aliases.set("acme", "greeter", "prod", made.kept.version, **WHO)
        backend.age()
        assert gc(backend).left_alone == []
        assert backend.entry(manifest) is None

    def test_a_manifest_restored_meanwhile_keeps_its_blobs(self, backend: Aged, made: Populated) -> None:
        """From a backup, by hand: nobody writes its blobs anew, so their age does not protect them."""

        class Restored(Wrapped):
            def create(self, key: str, data: bytes) -> bool:
                if key.startswith(layout.sweeps("acme")):
                    manifest = layout.version("acme", "greeter", made.lost.version)
                    backend.create(manifest, documents.encode(made.lost))
                return super().create(key, data)

        gc(Restored(backend))
        assert_sound(impatient(backend), made.lost)

    def test_a_job_that_goes_on_while_its_old_holds_are_removed(self, backend: Aged, made: Populated) -> None:
        """Another collector removes them first, so that the job's log begins anew, with a key that the slower one has listed."""
        for at in steps(self.stride):
            refused: list[bool] = []

            def go_on(backend: Backend = backend, refused: list[bool] = refused) -> None:
                gc(backend)
                try:
                    Holds(backend, wait_s=0.0).hold("acme", "ended", [made.dataset.id], by="tests")
                except StoreUnavailable:
                    refused.append(True)

            inside = Interrupted(backend, at, go_on)
            gc(inside)
            if inside.calls < at:
                break
            holds = Holds(backend, wait_s=0.0)
            if refused:
                holds.hold("acme", "ended", [made.dataset.id], by="tests")
            record = holds.current("acme", "ended")
            assert record is not None, at
            assert (record.state, record.datasets) == ("held", (made.dataset.id,)), at
            holds.release("acme", "ended", by="tests")
            backend.age()
        assert at > 20
