"""The merged fast path: requests never wait for it, are answered by their own version, and nothing of it is left at the end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from adapter_store.errors import CorruptBlob, StoreUnavailable
from serving_service.core.admission_limits import TenantPolicy
from serving_service.core.answers import Started
from serving_service.core.errors import NotMerged, RateLimited
from serving_service.core.fast_path.alias_watch import look
from serving_service.core.fast_path.life import State
from serving_service.core.fast_path.living import Backoff
from serving_service.core.generation import Call
from serving_service.core.observing import CallEnded, CutOver, MergedFailed, MergedWeights
from serving_service.engine.protocol import EngineUnavailable, TokenIds
from tests.unit.serving.merged_world import SLOW, Prompt, World, eventually, told, turns, version, write_merged

pytestmark = pytest.mark.timeout(60)
Make = Callable[..., World]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[World] = []

    def build(**more: object) -> World:
        made.append(World(tmp_path, **more))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for world in made:
        await world.close()


async def promoted(world: World, number: int = 1) -> None:
    row = await world.fast_path.promote(version(number), wait=True)
    assert row.state is State.SERVING, row


async def test_requests_go_swapped_until_it_serves_and_merged_from_then_on(make: Make) -> None:
    world = make()
    world.merge_gate.clear()
    world.start_gate.clear()
    assert (await world.fast_path.promote(version(1), wait=False)).state is not State.SERVING
    await world.until(1, State.MERGING)
    assert told(await world.ask()) == ("swapped", "v1")
    world.merge_gate.set()
    await world.until(1, State.STARTING)
    assert told(await world.ask()) == ("swapped", "v1")
    world.start_gate.set()
    await world.until(1, State.SERVING)
    assert told(await world.ask()) == ("merged", "v1")
    assert told(await world.ask(model=f"task@{version(1).version}")) == ("merged", "v1")
    assert told(await world.ask(model=f"task@{version(2).version}")) == ("swapped", "v2")
    row = world.row(1)
    assert row is not None
    assert (row.uses, row.users, row.bytes, row.wanted_by, row.why) == (2, 0, 10, ("operator",), "")
    kinds = [type(event) for event in world.seen]
    assert (kinds.count(MergedWeights), kinds.count(CutOver), kinds.count(MergedFailed)) == (1, 1, 0)


async def test_a_merged_request_takes_no_adapter_and_counts_for_its_tenant(make: Make) -> None:
    world = make()
    await promoted(world)
    world.policy = TenantPolicy(requests_per_minute=2)
    held = asyncio.create_task(world.ask(Prompt.AFTER))
    await eventually(lambda: world.admission.counts().running == 1)
    assert world.admission.counts().adapters == 0
    await world.ask()
    with pytest.raises(RateLimited):
        await world.ask()
    world.release()
    assert told(await held) == ("merged", "v1")


async def test_demoting_lets_requests_finish_and_gives_the_engine_to_nobody_else(make: Make) -> None:
    world = make()
    await promoted(world)
    stream = world.core.run(_call(Prompt.AFTER))
    assert isinstance(await anext(stream), Started)
    world.fast_path.demote(version(1))
    await world.until(1, State.DRAINING)
    assert told(await world.ask()) == ("swapped", "v1")
    assert world.running, "its last request still runs"
    world.release()
    rest = [event async for event in stream]
    assert rest
    await world.until(1, None)
    assert not world.running
    with pytest.raises(NotMerged):
        world.fast_path.demote(version(1))


async def test_death_loses_no_request_that_had_not_begun(make: Make) -> None:
    """It is answered by the adapter, charged once, and what it did before is forgotten; one that had begun is told to come again."""
    world = make()
    await promoted(world)
    world.policy = TenantPolicy(requests_per_minute=3, tokens_per_minute=100)
    stream = world.core.run(_call(Prompt.AFTER))
    await anext(stream)
    waiting = asyncio.create_task(world.ask(Prompt.BEFORE, tokens=40))
    engine = next(iter(world.running))
    await eventually(lambda: engine.users == 2)
    engine.kill()
    with pytest.raises(EngineUnavailable):
        async for _ in stream:
            pass
    await eventually(lambda: world.admission.counts().adapters == 1)
    world.release()
    assert told(await waiting) == ("swapped", "v1"), "over no limit: it was counted once"
    assert told(await world.ask(tokens=40)) == ("swapped", "v1"), "nor was it charged twice"
    with pytest.raises(RateLimited):
        await world.ask(tokens=40)
    ended = [event for event in world.seen if isinstance(event, CallEnded)]
    assert [(one.outcome, one.route, one.prompt_tokens, one.completion_tokens) for one in ended[:2]] == [
        ("unavailable", "merged", 1, 1),
        ("ok", "swapped", 40, 2),
    ]
    await world.until(1, State.WANTED)
    row = world.row(1)
    assert row is not None
    assert row.failures == 1
    assert "killed by the test" in row.why
    assert row.retry_seconds == 60


async def test_an_engine_that_goes_while_a_request_waits_costs_it_nothing(make: Make) -> None:
    """It goes on through the slots, with the one place that there is, and is counted once."""
    world = make(running=1)
    await promoted(world)
    world.policy = TenantPolicy(requests_per_minute=2)
    held = asyncio.create_task(world.ask(Prompt.AFTER))
    await eventually(lambda: world.admission.counts().running == 1)
    waiting = asyncio.create_task(world.ask())
    await eventually(lambda: world.admission.counts().waiting == 1)
    world.fast_path.demote(version(1))
    await world.until(1, State.DRAINING)
    world.release()
    async with asyncio.timeout(20):
        assert told(await held) == ("merged", "v1")
        assert told(await waiting) == ("swapped", "v1")


async def test_what_died_comes_back_after_a_while(make: Make) -> None:
    world = make(backoff=Backoff(first=0.01, most=0.01))
    await promoted(world)
    next(iter(world.running)).kill()
    await world.until(1, State.WANTED)
    await world.until(1, State.SERVING)
    assert told(await world.ask()) == ("merged", "v1")


@pytest.mark.parametrize(
    ("step", "said"), [("merge", "cannot be merged"), ("start", "did not start"), ("probe", "probe 0")]
)
async def test_what_fails_is_never_used_and_says_why(make: Make, step: str, said: str) -> None:
    world = make()
    world.fail.append(step)
    row = await world.fast_path.promote(version(1), wait=True)
    assert row.state is State.WANTED
    assert said in row.why
    assert (row.failures, row.retry_seconds) == (1, 60)
    assert not world.running
    assert told(await world.ask()) == ("swapped", "v1")
    world.fail.append(step)
    row = await world.fast_path.promote(version(1), wait=True)  # an operator need not wait
    assert (row.failures, row.retry_seconds) == (2, 120)
    assert (await world.fast_path.promote(version(1), wait=True)).state is State.SERVING


def test_each_failure_doubles_the_wait_up_to_an_hour() -> None:
    assert [Backoff().after(failures) for failures in (1, 2, 3, 10, 11, 5000)] == [5, 10, 20, 2560, 3600, 3600]


async def test_an_alias_route_merges_and_its_next_version_is_cut_over_without_a_gap(make: Make) -> None:
    """Requests take the new version at once; the old engine stays until the new one serves, and then goes."""
    world = make()
    world.point(1)
    assert told(await world.ask()) == ("swapped", "v1")
    await world.until(1, State.SERVING)
    assert told(await world.ask()) == ("merged", "v1")
    world.point(2)
    world.merge_gate.clear()
    assert told(await world.ask()) == ("swapped", "v2")
    await world.until(2, State.MERGING)
    world.point(1)
    assert told(await world.ask()) == ("merged", "v1"), "a rollback finds the old one"
    world.point(2)
    assert told(await world.ask()) == ("swapped", "v2")
    world.merge_gate.set()
    await world.until(2, State.SERVING)
    await world.until(1, None)
    assert told(await world.ask()) == ("merged", "v2")
    world.point(2, route="swapped")
    await world.ask()
    await world.until(2, None)
    assert told(await world.ask()) == ("swapped", "v2")


async def test_a_cut_over_leaves_no_moment_without_an_answer(make: Make) -> None:
    """Requests of every moment are answered by the version that the alias meant when they came, also those on the way."""
    world = make()
    world.point(1)
    await world.ask()
    await world.until(1, State.SERVING)
    on_old = [asyncio.create_task(world.ask(prompt)) for prompt in (Prompt.BEFORE, Prompt.AFTER)]
    await eventually(lambda: sum(engine.users for engine in world.running) == 2)
    world.merge_gate.clear()
    world.start_gate.clear()
    world.point(2)
    routes: list[tuple[str, str]] = []
    seen: set[State] = set()
    while (row := world.row(2)) is None or row.state is not State.SERVING or world.row(1) is not None:
        routes.append(told(await world.ask()))
        if row is not None:
            seen.add(row.state)
            if row.state is State.MERGING:
                world.merge_gate.set()
            elif row.state is State.STARTING:
                world.start_gate.set()
            elif row.state is State.SERVING:
                world.release()  # the old engine goes once its last requests have ended
    assert {State.MERGING, State.STARTING, State.SERVING} <= seen
    assert set(routes) == {("swapped", "v2"), ("merged", "v2")}
    assert routes == sorted(routes, reverse=True), "never back to the slots"
    assert [told(await request) for request in on_old] == [("merged", "v1")] * 2
    assert [engine.number for engine in world.running] == [2]


async def test_an_alias_that_nobody_asks_for_is_followed_too(make: Make) -> None:
    world = make()
    world.point(1)
    await world.ask()
    await world.until(1, State.SERVING)
    world.point(2)
    await look(world.fast_path, world.router.find)
    await world.until(2, State.SERVING)
    await world.until(1, None)
    world.targets_now = ()
    await look(world.fast_path, world.router.find)
    await world.until(2, None)
    assert not world.fast_path.aliases


async def test_a_store_that_is_away_takes_no_engine_from_an_alias(make: Make) -> None:
    world = make()
    world.point(1)
    await world.ask()
    await world.until(1, State.SERVING)
    world.away = True
    await look(world.fast_path, world.router.find)
    assert told(await world.ask()) == ("merged", "v1")


async def test_a_version_that_was_deleted_loses_its_engine_whoever_asked_for_it(make: Make) -> None:
    world = make()
    await promoted(world, 1)
    await promoted(world, 2)
    await look(world.fast_path, world.router.find)
    world.deleted = "1"
    await look(world.fast_path, world.router.find)
    await world.until(1, None)
    assert [engine.number for engine in world.running] == [2]


async def test_a_start_that_hangs_is_ended_says_so_and_is_tried_again_later(make: Make) -> None:
    world = make(start_seconds=0.05)
    world.start_gate.clear()
    row = await world.fast_path.promote(version(1), wait=True)
    assert (row.state, row.failures) == (State.WANTED, 1)
    assert "did not start within 0.05 s" in row.why
    assert "GRAFT_SERVING_MERGED_START_SECONDS" in row.why
    assert row.retry_seconds == SLOW.first
    assert not world.running
    assert told(await world.ask()) == ("swapped", "v1")
    world.start_gate.set()
    await promoted(world, 2)


async def test_an_engine_that_hangs_on_the_comparison_is_ended_too(make: Make) -> None:
    world = make(start_seconds=0.05)
    world.fail = ["hang"]
    row = await world.fast_path.promote(version(1), wait=True)
    assert (row.state, row.failures) == (State.WANTED, 1)
    assert "did not answer the comparison within 0.05 s" in row.why
    assert not world.running
    await promoted(world, 2)


async def test_an_operators_demotion_holds_against_the_alias_until_a_promotion(make: Make) -> None:
    world = make()
    world.point(1)
    await world.ask()
    await world.until(1, State.SERVING)
    world.fast_path.demote(version(1))
    await world.until(1, State.GONE)
    assert told(await world.ask()) == ("swapped", "v1")
    await turns(20)
    assert world.row(1).state is State.GONE  # type: ignore[union-attr]
    await promoted(world)


async def test_room_comes_from_what_is_asked_for_least_and_never_from_what_is_in_use(make: Make) -> None:
    world = make(count=2)
    await promoted(world, 1)
    await promoted(world, 2)
    await world.ask(model=f"task@{version(1).version}")
    await promoted(world, 3)
    assert {engine.number for engine in world.running} == {1, 3}
    held = [asyncio.create_task(world.ask(Prompt.AFTER, f"task@{version(n).version}")) for n in (1, 3)]
    await eventually(lambda: sum(engine.users for engine in world.running) == 2)
    row = await world.fast_path.promote(version(2), wait=True)
    assert row.state is State.WANTED
    assert "GRAFT_SERVING_MERGED_BUDGET_BYTES" in row.why
    assert row.failures == 0
    world.release()
    assert {told(await one) for one in held} == {("merged", "v1"), ("merged", "v3")}
    world.fast_path.demote(version(3))
    await world.until(2, State.SERVING)
    assert {engine.number for engine in world.running} == {1, 2}, "room that is given back is given on"


async def test_an_alias_does_not_push_out_what_is_used_as_much(make: Make) -> None:
    world = make(count=1)
    await promoted(world, 1)
    world.point(2)
    for _ in range(5):
        await world.ask()
    await world.until(2, State.WANTED)
    assert {engine.number for engine in world.running} == {1}, "an operator asked for it"
    world.point(1)
    await world.ask()
    world.fast_path.demote(version(1))
    await world.until(1, State.GONE)


class Shelf:
    """Merged weights in a store that can be away."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.away = self.damaged = self.corrupt = False
        self.removed: list[str] = []

    def _require(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    def find(self, base_digest: str, version: str) -> object | None:
        self._require()
        return version if version in self.kept else None

    def publish(self, base_digest: str, version: str, folder: Path) -> object:
        self._require()
        assert (folder / "number").exists()
        self.kept.add(version)
        return version

    def fetch(self, base_digest: str, version: str, folder: Path) -> object:
        self._require()
        if self.corrupt:
            folder.mkdir()
            raise CorruptBlob("damaged in the store")
        write_merged(folder, 7 if self.damaged else int(version[0]))
        return version

    def remove(self, base_digest: str, version: str) -> None:
        self._require()
        self.kept.discard(version)
        self.removed.append(version)


async def test_what_is_damaged_in_the_store_is_merged_here_and_replaced(make: Make) -> None:
    shelf = Shelf()
    shelf.kept, shelf.corrupt = {version(1).version}, True
    world = make(store=shelf)
    await promoted(world)
    assert world.merges == 1
    await eventually(lambda: bool(shelf.removed and shelf.kept))


async def test_what_another_node_merged_is_not_merged_again(make: Make) -> None:
    shelf = Shelf()
    world = make(store=shelf)
    await promoted(world)
    await eventually(lambda: bool(shelf.kept))
    world.fast_path.demote(version(1))
    await world.until(1, None)
    await promoted(world)
    assert world.merges == 1
    assert [event.from_store for event in world.seen if isinstance(event, MergedWeights)] == [False, True]


async def test_a_store_that_is_away_costs_a_merge_and_nothing_else(make: Make) -> None:
    shelf = Shelf()
    shelf.away = True
    world = make(store=shelf)
    await promoted(world)
    assert told(await world.ask()) == ("merged", "v1")
    assert not shelf.kept


async def test_weights_from_the_store_that_are_another_ones_are_merged_here(make: Make) -> None:
    shelf = Shelf()
    shelf.kept, shelf.damaged = {version(1).version}, True
    world = make(store=shelf)
    row = await world.fast_path.promote(version(1), wait=True)
    assert "probe 0" in row.why
    await promoted(world)
    assert world.merges == 1
    assert told(await world.ask()) == ("merged", "v1")
    await eventually(lambda: bool(shelf.removed and shelf.kept))


@pytest.mark.parametrize("state", [State.MERGING, State.STARTING, State.SERVING])
async def test_a_stop_ends_it_wherever_it_is(make: Make, state: State) -> None:
    """`World.close` looks for what is left."""
    world = make()
    world.merge_gate.clear()
    world.start_gate.clear()
    if state is not State.MERGING:
        world.merge_gate.set()
    if state is State.SERVING:
        world.start_gate.set()
    await world.fast_path.promote(version(1), wait=False)
    await world.until(1, state)


@pytest.mark.parametrize("state", [State.MERGING, State.STARTING])
async def test_a_demotion_ends_it_wherever_it_is(make: Make, state: State) -> None:
    world = make()
    (world.merge_gate if state is State.MERGING else world.start_gate).clear()
    await world.fast_path.promote(version(1), wait=False)
    await world.until(1, state)
    world.fast_path.demote(version(1))
    await world.until(1, None)
    assert not world.running
    assert not world.merging


def _call(prompt: Prompt) -> Call:
    return Call("acme", "task", TokenIds((int(prompt),)))
