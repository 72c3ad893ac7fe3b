"""Whom a step hides where newcomers meet a flood, which steps may be left for them, and that vLLM's scheduler is left as it was."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from serving_service.engine.protocol import NEWCOMER
from serving_service.vllm_plugin.step_shares import FEW, SAVED


@dataclass(eq=False)
class Request:
    """As far as the scheduler looks at one."""

    name: str
    prompt: int = 40
    priority: int = 0
    computed: int = 0
    outputs: int = 0
    status: Any = None
    lora_request: Any = None

    num_prompt_tokens = property(lambda self: self.prompt)
    num_computed_tokens = property(lambda self: self.computed)
    num_output_tokens = property(lambda self: self.outputs)


@dataclass(frozen=True)
class Step:
    """As far as the scheduler looks at one."""

    num_scheduled_tokens: dict[str, int]
    total_num_scheduled_tokens: int


@dataclass
class Plain:
    """vLLM's part: runs all that it sees within its tokens, each as far as one prompt may go."""

    running: list[Request] = field(default_factory=list)
    waiting: list[Request] = field(default_factory=list)
    max_num_active_reqs: int = 20
    max_num_scheduled_tokens: int = 1000
    scheduler_config: Any = field(
        default_factory=lambda: SimpleNamespace(async_scheduling=False, long_prefill_token_threshold=0)
    )
    lora_config: Any = field(default_factory=lambda: SimpleNamespace(max_loras=8))

    def schedule(self) -> "Step":
        left, scheduled = self.max_num_scheduled_tokens, dict[str, int]()
        longest = self.scheduler_config.long_prefill_token_threshold or left
        for request in (*self.running, *self.waiting):
            tokens = min(max(1, request.prompt - request.computed), longest, left)
            if not tokens or (request not in self.running and len(self.running) >= self.max_num_active_reqs):
                break
            if request not in self.running:
                self.running.append(request)
            scheduled[request.name], left = tokens, left - tokens
        self.waiting[:] = [one for one in self.waiting if one not in self.running]
        return Step(scheduled, sum(scheduled.values()))

    def update_from_output(self, made: "Step") -> None:
        for one in self.running:
            one.computed += made.num_scheduled_tokens.get(one.name, 0)
            one.outputs += one.computed >= one.prompt and one.name in made.num_scheduled_tokens


class UnderWay:
    """As far as the scheduler tells it something."""

    def __init__(self) -> None:
        self.may, self.running = False, 0
        self.take_back: Any = None

    def begin(self, may: bool, running: int) -> None:
        self.may, self.running = may, running

    def seen(self, request: str) -> None:
        """Nothing here comes while a step is under way."""


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Any:
    from vllm.v1.request import RequestStatus

    from serving_service.vllm_plugin import slot_scheduler
    from serving_service.vllm_plugin.slot_scheduler import _Sliced

    def take_back(scheduler: Any, step: Step) -> None:
        scheduler.taken_back.append(step)

    # What these do with vLLM's books is for tests/integration/serving/test_serving_steps_left.py.
    monkeypatch.setattr(slot_scheduler, "can_take_back", lambda scheduler: True)
    monkeypatch.setattr(slot_scheduler, "fills_for_another", lambda scheduler, step: scheduler.fills)
    monkeypatch.setattr(slot_scheduler, "take_back", take_back)
    monkeypatch.setattr(slot_scheduler, "under_way", under_way := UnderWay())

    class Sliced(_Sliced, Plain):  # type: ignore[misc]
        fills = False

        def __init__(self) -> None:
            super().__init__()
            self.taken_back: list[Step] = []

        def come(self, *requests: Request) -> None:
            for one in requests:
                one.status = RequestStatus.WAITING
                self.waiting.append(one)

        def go(self) -> dict[str, int]:
            made = self.schedule()
            for one in self.running:
                one.status = RequestStatus.RUNNING
            self.update_from_output(made)
            return dict(made.num_scheduled_tokens)

        def leave(self) -> Step:
            """A step that is left."""
            made: Step = self.schedule()
            for one in self.running:
                one.status = RequestStatus.RUNNING
            under_way.take_back(made)
            self.update_from_output(made)
            return made

        def may_leave(self) -> bool:
            """Goes on, and tells whether that step might have been left."""
            self.go()
            return under_way.may

        def told(self) -> int:
            """How many requests run, as the step was told."""
            return under_way.running

    return Sliced()


def test_a_newcomers_prompt_is_computed_alone_and_everybody_goes_on_afterwards(scheduler: Any) -> None:
    flood = [Request(f"f{number}") for number in range(6)]
    scheduler.come(*flood)
    scheduler.go()
    scheduler.come(Request("f6"), Request("new", priority=NEWCOMER))
    assert scheduler.go() == {"new": 40}
    assert scheduler.told() == 7, "those that are hidden from it run, too"
    assert [one.name for one in scheduler.running] == [*(one.name for one in flood), "new"]
    assert [one.name for one in scheduler.waiting] == ["f6"]
    after = scheduler.go()
    assert {name: after[name] for name in ("f0", "f5", "new")} == {"f0": 1, "f5": 1, "new": 1}
    assert (scheduler.max_num_active_reqs, scheduler.max_num_scheduled_tokens) == (20, 1000)
    assert scheduler.scheduler_config.long_prefill_token_threshold == 0


def test_beside_newcomers_a_floods_prompts_come_in_pieces_and_nobody_misses_a_step(scheduler: Any) -> None:
    scheduler.come(*(Request(f"f{number}") for number in range(5)))
    scheduler.go()
    scheduler.come(Request("new", priority=NEWCOMER))
    scheduler.go()
    scheduler.come(Request("long", prompt=300))
    taken = []
    for _ in range(4):
        step = scheduler.go()
        assert all(step[name] == 1 for name in ("f0", "f4", "new"))
        taken.append(step["long"])
    assert max(taken) < 300, "not all at once"


def test_a_newcomer_between_two_steps_of_their_own_is_not_kept_by_prompts_that_have_begun(scheduler: Any) -> None:
    scheduler.come(*(Request(f"f{number}") for number in range(5)))
    scheduler.go()
    scheduler.come(Request("new", priority=NEWCOMER))
    scheduler.go()
    scheduler.come(Request("long", prompt=600), Request("longer", prompt=600))
    assert 0 < scheduler.go()["long"] < 600
    scheduler.come(Request("second", priority=NEWCOMER))
    assert scheduler.go() == {"second": 40}
    scheduler.come(Request("third", priority=NEWCOMER))
    assert scheduler.go()["third"] == 40, "all of it, before the flood's"
    for _ in range(40):
        step = scheduler.go()
        assert all(step[name] == 1 for name in ("f0", "f4", "new", "second", "third"))
    assert all(step[name] == 1 for name in ("long", "longer")), "in the end they answer, too"


def test_who_lost_its_blocks_comes_before_newcomers(scheduler: Any) -> None:
    from vllm.v1.request import RequestStatus

    scheduler.come(*(Request(f"f{number}") for number in range(5)))
    scheduler.go()
    scheduler.come(lost := Request("lost"), Request("new", priority=NEWCOMER))
    lost.status = RequestStatus.PREEMPTED
    assert list(scheduler.go())[-2:] == ["lost", "new"]


def test_a_newcomer_has_no_more_places_than_there_are(scheduler: Any) -> None:
    scheduler.come(*(Request(f"f{number}") for number in range(20)))
    scheduler.go()
    assert len(scheduler.running) == 20
    scheduler.come(Request("new", priority=NEWCOMER))
    assert "new" not in scheduler.go()
    assert len(scheduler.running) == 20
    assert scheduler.waiting


@pytest.mark.parametrize(("plain", "pieces"), [(0.05, 3), (0.08, 2)])
def test_a_long_prompt_beside_one_answer_comes_in_pieces_and_vllms_own_limit_is_put_back(
    scheduler: Any, plain: float, pieces: int
) -> None:
    """In fewer where each is a long step that the newcomer waits for."""
    scheduler.come(Request("answers"))
    scheduler.go()
    for tokens, seconds in ((0, plain), (64, plain + 0.32)):
        scheduler._shares.learn(seconds, tokens)
    scheduler.come(Request("long", prompt=90))
    steps = [{"answers": 1, "long": 90 // pieces}] * pieces + [{"answers": 1, "long": 1}]
    assert [scheduler.go() for _ in steps] == steps
    assert scheduler.scheduler_config.long_prefill_token_threshold == 0


def test_beside_a_load_a_prompt_is_cut_that_would_be_whole_without(
    scheduler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving_service.vllm_plugin import slot_scheduler
    from serving_service.vllm_plugin.loads import Loads

    monkeypatch.setattr(slot_scheduler, "loads", loads := Loads(lambda: 0.0))
    scheduler.come(Request("answers"))
    scheduler.go()
    for tokens, seconds in ((0, 0.04), (20, 0.08)):
        scheduler._shares.learn(seconds, tokens)
    loads.tell(True)
    scheduler.come(Request("cold", prompt=10))
    assert [scheduler.go()["cold"] for _ in range(2)] == [8, 2]
    loads.tell(False)
    scheduler.come(Request("behind", prompt=10))
    assert scheduler.go()["behind"] == 8, "just behind it"
    monkeypatch.setattr(slot_scheduler, "loads", Loads(lambda: 0.0))
    scheduler.go()
    scheduler.come(Request("warm", prompt=10))
    assert scheduler.go()["warm"] == 10


def test_a_prompt_that_finds_no_place_has_no_say_in_how_others_are_cut(scheduler: Any) -> None:
    scheduler.come(Request("answers"))
    scheduler.go()
    for tokens, seconds in ((0, 0.04), (20, 0.08)):
        scheduler._shares.learn(seconds, tokens)
    scheduler.max_num_active_reqs = 2
    scheduler.come(Request("short"), Request("long", prompt=900))
    assert scheduler.go()["short"] == 14, "a third of it, not of the other"


def flooded(scheduler: Any, requests: int = 6, name: str = "f") -> None:
    scheduler.come(*(Request(f"{name}{number}") for number in range(requests)))
    scheduler.go()


def test_a_step_that_was_left_has_no_tokens_and_counts_for_nothing(scheduler: Any) -> None:
    flooded(scheduler)
    before = [(one.computed, one.outputs) for one in scheduler.running]
    made = scheduler.leave()
    assert scheduler.taken_back == [made]
    assert [(one.computed, one.outputs) for one in scheduler.running] == before
    scheduler.come(Request("new", priority=NEWCOMER))
    assert scheduler.go() == {"new": 40}
    assert scheduler.go()["f0"] == 1
    assert scheduler.running[0].outputs == before[0][1] + 1


def test_a_step_that_was_left_does_not_earn_newcomers_another_one(scheduler: Any) -> None:
    flooded(scheduler)
    for number in range(SAVED):
        scheduler.come(Request(f"n{number}", priority=NEWCOMER))
        assert len(scheduler.go()) == 1
    scheduler.leave()
    scheduler.come(Request("late", priority=NEWCOMER))
    assert len(scheduler.go()) > 1, "the others' turn"


def test_the_floods_steps_may_be_left(scheduler: Any) -> None:
    flooded(scheduler)
    assert scheduler.may_leave()
    scheduler.come(Request("f6"))
    assert scheduler.may_leave(), "with a prompt, too"


def test_steps_that_leaving_would_help_nobody_may_not_be_left(scheduler: Any) -> None:
    from vllm.v1.request import RequestStatus

    flooded(scheduler, FEW - 1, "few")
    assert not scheduler.may_leave(), "a newcomer's prompt would join the few that answer"
    flooded(scheduler)
    assert scheduler.may_leave()
    scheduler.come(Request("new", priority=NEWCOMER))
    assert not scheduler.may_leave(), "it is a newcomer's"
    assert scheduler.may_leave(), "it is past its prompt"
    scheduler.fills = True
    assert not scheduler.may_leave(), "it could not be taken back"
    scheduler.fills = False
    scheduler.come(lost := Request("lost"))
    lost.status = RequestStatus.PREEMPTED
    scheduler.max_num_active_reqs = len(scheduler.running)
    assert not scheduler.may_leave(), "who lost its blocks comes first"


def test_a_step_beside_which_there_is_no_place_may_not_be_left(scheduler: Any) -> None:
    flooded(scheduler, scheduler.max_num_active_reqs)
    assert not scheduler.may_leave()
