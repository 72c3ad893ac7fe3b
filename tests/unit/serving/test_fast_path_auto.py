"""Traffic wins an alias a merged engine and loses it, seldom: the rules for any traffic, and what the fast path makes of them."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_store import Target
from adapter_store.manifest import NO_TARGET, LatencyTarget
from serving_service.core.fast_path.alias_watch import look
from serving_service.core.fast_path.auto import AutoPromotion, AutoRules, Choice
from serving_service.core.fast_path.life import Alias, MergedRow, State
from serving_service.core.observing import AutoChange, CallEnded
from tests.unit.serving.merged_world import World, eventually, told, version

TICK = 30.0
PLACES = 2
RULES = AutoRules(tokens_per_minute=500.0, changes_per_hour=4)
ALIASES: list[Alias] = [("acme", f"task{number}", "prod") for number in range(4)]
NOBODY = (0, 0, 0, 0)


class Clock:
    """A clock, aliases of an adapter each, and who is promoted as far as the choices say."""

    def __init__(self, rules: AutoRules = RULES, latency: LatencyTarget = NO_TARGET, places: int = PLACES) -> None:
        self.now, self.places = 0.0, places
        self.auto = AutoPromotion(rules, lambda: self.now)
        self.promoted: dict[Alias, float] = {}
        self.changes: list[float] = []
        self.stayed: list[float] = []
        for alias in ALIASES:
            manifest = version(1).model_copy(update={"adapter": alias[1]})
            self.auto.note(alias, manifest, (Target(manifest, 1, "auto", latency),))

    def asked(self, alias: Alias, tokens: int, *, first: float = 0.1, route: str = "swapped") -> None:
        """A request of so many tokens, the last of them an answer's first."""
        called = version(1).version
        self.auto.see(
            CallEnded("c", alias[0], alias[1], called, route, None, tokens, 0, {}, first, first, "ok", "stop")
        )

    def tick(self, tokens: tuple[int, ...] = NOBODY, **more: float) -> Choice:
        """Half a minute, in which each alias is asked for so many tokens."""
        for alias, count in zip(ALIASES, tokens, strict=True):
            if count:
                self.asked(alias, count, **more)
        self.now += TICK
        choice = self.auto.choose(self.places - len(self.promoted))
        for gone in (choice.demote, choice.instead_of):
            if gone:
                self.stayed.append(self.now - self.promoted.pop(gone))
                self.changes.append(self.now)
        if choice.promote:
            assert choice.promote not in self.promoted
            self.promoted[choice.promote] = self.now
            self.changes.append(self.now)
        return choice

    def go(self, seconds: float, tokens: tuple[int, ...] = NOBODY, **more: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.tick(tokens, **more)


LOAD = st.tuples(*[st.sampled_from([0, 30, 180, 270, 450, 1200, 60_000])] * 4)
"""Tokens in half a minute: none, less than half of what is needed, between, enough, more."""
EVENT = st.sampled_from(["", "", "", "pushed out", "failed", "demoted"])


@settings(max_examples=40, deadline=None)
@given(trace=st.lists(st.tuples(st.integers(1, 60), LOAD, EVENT), min_size=1, max_size=25))
def test_no_traffic_changes_engines_more_often_than_it_may(trace: list[tuple[int, tuple[int, ...], str]]) -> None:
    """Nor beyond the places, nor before its time."""
    world = Clock()
    for ticks, load, event in trace:
        for _ in range(ticks):
            world.tick(load)
            assert len(world.promoted) <= PLACES
            assert {alias for alias in ALIASES if world.auto.promoted(alias)} == set(world.promoted)
        if event and world.promoted:
            alias = next(iter(world.promoted))
            del world.promoted[alias]
            world.auto.bar(alias) if event == "demoted" else world.auto.left(alias, failed=event == "failed")
    for at in world.changes:
        assert sum(at <= other < at + 3600 for other in world.changes) <= RULES.changes_per_hour
    assert all(stay >= RULES.stays for stay in world.stayed)


@settings(max_examples=8, deadline=None)
@given(load=LOAD)
def test_steady_traffic_comes_to_rest(load: tuple[int, ...]) -> None:
    """However long it lasts, nothing changes any more once the places are given to those who deserve them."""
    world = Clock(AutoRules(tokens_per_minute=500.0, changes_per_hour=1000))
    world.go(2 * 3600, load)
    before = len(world.changes)
    world.go(3 * 3600, load)
    assert len(world.changes) == before
    assert len(world.changes) == len(world.promoted)
    assert len(world.promoted) == min(PLACES, sum(tokens * 2 >= 500 for tokens in load))


def test_alternating_traffic_does_not_alternate_engines() -> None:
    """Two aliases that take turns every four minutes, with a place for one."""
    world = Clock(places=1)
    for _ in range(90):
        world.go(240, (1200, 0, 0, 0))
        world.go(240, (0, 1200, 0, 0))
    assert len(world.changes) == 1


def test_a_burst_promotes_nothing_and_what_lasts_does_with_a_reason() -> None:
    world = Clock()
    world.tick((300, 0, 0, 0))
    world.go(3600)
    assert not world.changes
    world.go(900, (450, 0, 0, 0))
    assert list(world.promoted) == [ALIASES[0]]
    assert "tokens a minute (from 500)" in world.auto.because(ALIASES[0])


def test_quiet_demotes_and_less_traffic_does_not() -> None:
    world = Clock()
    world.go(1800, (300, 0, 0, 0))
    world.go(7200, (180, 0, 0, 0))
    assert list(world.promoted) == [ALIASES[0]], "more than half of what it took"
    world.go(3600, (60, 0, 0, 0))
    assert not world.promoted


def test_the_much_stronger_takes_the_weakest_ones_place() -> None:
    world = Clock()
    world.go(1800, (300, 450, 0, 0))
    world.go(1800, (300, 450, 450, 0))
    assert set(world.promoted) == {ALIASES[0], ALIASES[1]}, "half as much more is not enough"
    world.go(1800, (300, 450, 900, 0))
    assert set(world.promoted) == {ALIASES[1], ALIASES[2]}


def test_a_target_that_is_met_promotes_nothing_and_one_that_is_missed_counts_twice() -> None:
    world = Clock(latency=LatencyTarget(first_token_ms=200))
    world.go(3600, (180, 3000, 0, 0), first=0.05)
    assert not world.promoted
    world.go(1800, (180, 0, 0, 0), first=0.5)
    assert list(world.promoted) == [ALIASES[0]]
    assert "target 200 ms, so they count twice" in world.auto.because(ALIASES[0])
    world.go(3600, (180, 0, 0, 0), first=0.01)
    assert list(world.promoted) == [ALIASES[0]], "met by its engine, and not taken away for that"


def test_none_are_changed_where_none_may_be() -> None:
    world = Clock(AutoRules(tokens_per_minute=1.0, changes_per_hour=0))
    world.go(7200, (400, 400, 400, 400))
    assert not world.changes


# In the fast path

Make = Callable[..., World]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[World] = []

    def build(**more: object) -> World:
        made.append(World(tmp_path, **{"auto": AutoRules(tokens_per_minute=100.0), **more}))  # type: ignore[arg-type]
        made[-1].point(1, route="auto")
        return made[-1]

    yield build
    for world in made:
        await world.close()


def row(world: World, number: int) -> MergedRow:
    found = world.row(number)
    assert found is not None
    return found


async def test_traffic_alone_wins_an_engine_and_loses_it(make: Make) -> None:
    world = make()
    assert told(await world.ask()) == ("swapped", "v1")
    await world.busy(300, "task")
    await world.until(1, State.SERVING)
    assert told(await world.ask()) == ("merged", "v1")
    assert row(world, 1).wanted_by == ("task:prod (auto)",)
    assert "tokens a minute" in row(world, 1).promoted_because
    await world.busy(3600)
    await world.until(1, None)
    assert told(await world.ask()) == ("swapped", "v1")
    assert [event.promoted for event in world.seen if isinstance(event, AutoChange)] == [True, False]


@pytest.mark.parametrize("route", ["swapped", "merged"])
async def test_other_routes_are_not_for_traffic_to_decide(make: Make, route: str) -> None:
    world = make()
    world.point(1, route=route)
    await world.busy(3600, "task")
    assert not any(isinstance(event, AutoChange) for event in world.seen)
    assert (world.row(1) is None) == (route == "swapped")


async def test_a_new_version_of_it_is_cut_over_without_a_gap(make: Make) -> None:
    world = make()
    await world.busy(300, "task")
    await world.until(1, State.SERVING)
    world.start_gate.clear()
    world.point(2, route="auto")
    assert told(await world.ask()) == ("swapped", "v2")
    await world.until(2, State.STARTING)
    assert told(await world.ask(model=f"task@{version(1).version}")) == ("merged", "v1"), "kept for a quick rollback"
    world.start_gate.set()
    await world.until(2, State.SERVING)
    assert told(await world.ask()) == ("merged", "v2")
    await world.until(1, None)
    assert row(world, 2).promoted_because


async def test_a_change_of_the_route_ends_it_at_once(make: Make) -> None:
    world = make()
    await world.busy(300, "task")
    await world.until(1, State.SERVING)
    world.point(1, route="swapped")
    await look(world.fast_path, world.router.find)
    await world.until(1, None)


@pytest.mark.parametrize("who", ["operator", "alias"])
async def test_what_an_operator_wants_takes_its_place_though_it_is_in_use(make: Make, who: str) -> None:
    """And traffic does not take it back."""
    world = make(count=1)
    await world.busy(300, "task")
    await world.until(1, State.SERVING)
    if who == "operator":
        assert (await world.fast_path.promote(version(2), wait=True)).state is State.SERVING
    else:
        world.targets_now = (Target(version(1), 1, "auto"), *[Target(version(2), 1, "merged")])
        alias = ("acme", "task", "low")
        world.fast_path.note(alias, version(2), (Target(version(2), 1, "merged"),))
        await world.until(2, State.SERVING)
        world.point(1, route="auto")
    await world.until(1, None)
    await world.busy(7200, "task")
    assert row(world, 2).state is State.SERVING
    assert world.row(1) is None


async def test_no_room_is_no_promotion(make: Make) -> None:
    world = make(count=1)
    assert (await world.fast_path.promote(version(2), wait=True)).state is State.SERVING
    await world.busy(7200, "task")
    assert row(world, 2).state is State.SERVING
    assert world.row(1) is None


async def test_an_operators_demotion_holds_against_traffic_until_the_next_version(make: Make) -> None:
    world = make()
    await world.busy(300, "task")
    await world.until(1, State.SERVING)
    world.fast_path.demote(version(1))
    await world.until(1, None)
    await world.busy(7200, "task")
    assert world.row(1) is None
    world.point(2, route="auto")
    await world.busy(600, "task")
    await world.until(2, State.SERVING)


async def test_an_engine_that_fails_again_and_again_is_given_up(make: Make) -> None:
    world = make()
    world.fail = ["start"] * 3
    await world.busy(300, "task")
    life = world.fast_path._lives["acme", "task", version(1).version]

    def failed_three_times() -> bool:
        life.poke.set()  # no waiting for the next try; time stands still, or the traffic that wants it would end
        return life.failures == 3

    await eventually(failed_three_times)
    assert not world.fail, "it was tried three times"
    await world.busy(20)
    await world.until(1, None)
    await world.busy(1800, "task")
    assert world.row(1) is None, "not for an hour"
