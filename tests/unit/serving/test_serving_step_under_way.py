"""When a step is left for a newcomer, and what that may cost everybody else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_service.vllm_plugin.step_under_way import LOST, MOST_LOST_S, Left, StepUnderWay


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def started(seconds_before: float = 60.0) -> tuple[StepUnderWay, Clock]:
    clock = Clock()
    step = StepUnderWay(clock)
    step.can_be_left = True
    clock.now += seconds_before
    return step, clock


def asks(step: StepUnderWay) -> bool:
    try:
        step.ask()
    except Left:
        return True
    return False


step_of_a_day = st.tuples(st.floats(0.001, 0.3), st.floats(0.0, 1.0), st.booleans(), st.booleans())
"""How long a step takes, when somebody comes in it, whether it may be left, and whether the one that comes is there afterwards."""


@given(day=st.lists(step_of_a_day, max_size=200), before=st.floats(0.0, 100.0))
def test_leaving_costs_a_small_part_of_all_time(day: list[tuple[float, float, bool, bool]], before: float) -> None:
    step, clock = started(before)
    lost, began = 0.0, clock.now - before
    for number, (seconds, comes, may, there) in enumerate(day):
        step.begin(may)
        clock.now += seconds * comes
        step.comes(str(number))
        if left := asks(step):
            assert may
            step.leave(None)
            lost += seconds * comes
        if there:
            step.seen(str(number))
        clock.now += 0.0 if left else seconds * (1 - comes)
        assert lost <= (LOST * (clock.now - began) + MOST_LOST_S) * 1.000001


def test_a_step_is_left_for_who_comes_in_it_and_not_for_who_was_there() -> None:
    step, clock = started()
    step.comes("before")
    step.seen("before")
    step.begin(True)
    assert not asks(step)
    clock.now += 0.01
    step.comes("now")
    assert asks(step)
    step.leave(None)
    step.seen("now")
    step.begin(True)
    assert not asks(step)


@pytest.mark.parametrize("why", ["the scheduler says no", "no layer asks", "too much is lost already"])
def test_a_step_that_may_not_be_left_is_not(why: str) -> None:
    step, clock = started(0.0 if why.startswith("too") else 60.0)
    step.can_be_left = why != "no layer asks"
    step.begin(why != "the scheduler says no")
    clock.now += 0.01
    step.comes("somebody")
    assert not asks(step)


def test_a_step_that_took_longer_than_may_be_lost_goes_on() -> None:
    step, clock = started()
    step.begin(True)
    clock.now += MOST_LOST_S * 1.01
    step.comes("late")
    assert not asks(step)


def test_a_step_that_makes_what_others_count_on_goes_on() -> None:
    step, _ = started()
    step.begin(True)
    step.stay()
    step.comes("somebody")
    assert not asks(step)


def test_who_never_arrives_costs_two_steps_at_most() -> None:
    step, clock = started()
    step.comes("a request that failed on its way to the scheduler")
    left = 0
    for _ in range(6):
        step.begin(True)
        clock.now += 0.001
        if asks(step):
            left += 1
            step.leave(None)
    assert left == 2


def test_the_scheduler_is_told_which_step_it_has_to_forget() -> None:
    step, _ = started()
    forgotten: list[object] = []
    step.take_back = forgotten.append
    step.begin(True)
    step.comes("somebody")
    assert asks(step)
    made = object()
    step.leave(made)
    assert forgotten == [made]
    assert not asks(step), "it has been left"
