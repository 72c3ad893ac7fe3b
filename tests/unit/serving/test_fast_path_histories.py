"""Any history of promotions, demotions, moves of an alias, traffic, deaths, failures and requests keeps the fast path's invariants.

The engines of `merged_world` assert theirs themselves: never two of one version, never stopped under a request, no request on
one that is stopped or failed the comparison. Here: every request gets its own version's answer, or an error only where its
engine was killed after its first token; the budget holds; nothing is left at the end.
"""

import asyncio

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from serving_service.core.answers import Event, Started
from serving_service.core.errors import NotMerged
from serving_service.core.fast_path.auto import AutoRules
from serving_service.core.fast_path.living import Backoff
from serving_service.engine.protocol import EngineUnavailable
from tests.unit.serving.merged_world import Prompt, World, told, turns, version

pytestmark = pytest.mark.timeout(300)
COUNT = 2
EAGER = AutoRules(tokens_per_minute=0.05, changes_per_hour=100, sustained=0.0, quiet=60.0, stays=60.0, gives_up=60.0)
NUMBERS = st.sampled_from([1, 2, 3])


def check_histories(factory: pytest.TempPathFactory, examples: int, steps: int) -> None:
    class History(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.requests: list[tuple[set[int], asyncio.Task[list[Event]]]] = []
            self.deaths = 0
            self.runner.run(self.open())

        async def open(self) -> None:
            backoff = Backoff(first=0.001, most=0.001, room=0.005)
            self.world = World(factory.mktemp("history"), count=COUNT, backoff=backoff, auto=EAGER)
            self.world.point(1, route="auto")

        @rule(number=NUMBERS)
        def promote(self, number: int) -> None:
            self.runner.run(self.world.fast_path.promote(version(number), wait=False))

        @rule(number=NUMBERS)
        def demote(self, number: int) -> None:
            async def act() -> None:
                try:
                    self.world.fast_path.demote(version(number))
                except NotMerged:
                    row = self.world.row(number)
                    assert row is None or not row.wanted_by or row.state == "gone"

            self.runner.run(act())

        @rule(
            numbers=st.lists(NUMBERS, min_size=1, max_size=2, unique=True),
            route=st.sampled_from(["merged", "swapped", "auto"]),
        )
        def move_alias(self, numbers: list[int], route: str) -> None:
            self.world.point(*numbers, route=route)
            for own, task in self.requests:
                if 0 in own:  # by the alias, which it may not have looked up yet
                    own.update([] if task.done() else numbers)

        @rule(prompt=st.sampled_from(list(Prompt)), by_alias=st.booleans(), number=NUMBERS)
        def request(self, prompt: Prompt, by_alias: bool, number: int) -> None:
            async def act() -> None:
                model = "task" if by_alias else f"task@{version(number).version}"
                own = {int(t.manifest.version[0]) for t in self.world.targets_now} if by_alias else {number}
                own |= {0} if by_alias else set()
                task = asyncio.create_task(self.world.ask(prompt, model))
                await turns(3)
                self.requests.append((own, task))

            self.runner.run(act())

        @rule(seconds=st.sampled_from([1.0, 60.0, 1800.0]))
        def review_traffic(self, seconds: float) -> None:
            async def act() -> None:
                own = {int(t.manifest.version[0]) for t in self.world.targets_now} | {0}
                task = asyncio.create_task(self.world.ask(Prompt.GO, "task"))
                self.requests.append((own, task))
                await asyncio.wait({task}, timeout=0.3)  # others may have its place
                self.world.now += seconds
                self.world.fast_path.review()

            self.runner.run(act())

        @rule()
        def let_go(self) -> None:
            async def act() -> None:
                self.world.release()

            self.runner.run(act())

        # What is drawn must not depend on how far threads have come, or a history could not be repeated.
        @rule(number=NUMBERS)
        def kill(self, number: int) -> None:
            async def act() -> None:
                for engine in self.world.running:
                    if engine.number == number:
                        engine.kill()
                        self.deaths += 1

            self.runner.run(act())

        @rule(step=st.sampled_from(["merge", "start", "probe"]))
        def fail_next(self, step: str) -> None:
            self.world.fail = [step]

        @rule(count=st.sampled_from([1, 5, 20]), seconds=st.sampled_from([0.0, 0.01]))
        def go_on(self, count: int, seconds: float) -> None:
            async def act() -> None:
                await turns(count)
                await asyncio.sleep(seconds)  # threads and the short waits after failures

            self.runner.run(act())

        @invariant()
        def holds(self) -> None:
            world = self.world
            assert world.budget.used <= world.budget.size
            assert len(world.running) <= COUNT
            numbers = [engine.number for engine in world.running]
            assert len(numbers) == len(set(numbers))
            for row in world.fast_path.rows():
                assert row.users >= 0

        def teardown(self) -> None:
            try:
                self.runner.run(self.ended())
            finally:
                self.runner.close()

        async def ended(self) -> None:
            async with asyncio.timeout(30):
                while not all(task.done() for _, task in self.requests):  # a held one may come to be held elsewhere
                    self.world.release()
                    await asyncio.sleep(0.001)
            failed = 0
            for own, task in self.requests:
                error = task.exception()
                if error is None:
                    events = task.result()
                    assert isinstance(events[0], Started)
                    number = int(events[0].version[0])
                    assert told(events)[1] == f"v{number}"
                    assert number in own
                else:
                    assert isinstance(error, EngineUnavailable), repr(error)
                    failed += 1
            assert not failed or self.deaths, "failed without a death"
            assert all(row.users == 0 for row in self.world.fast_path.rows())
            await self.world.close()
            counts = self.world.admission.counts()  # only now: until then versions may be compared
            assert (counts.running, counts.waiting, counts.adapters) == (0, 0, 0)

    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_history_keeps_the_invariants(tmp_path_factory: pytest.TempPathFactory) -> None:
    check_histories(tmp_path_factory, 30, 25)


@pytest.mark.thorough
def test_many_long_histories_keep_the_invariants(tmp_path_factory: pytest.TempPathFactory) -> None:
    check_histories(tmp_path_factory, 400, 60)
