"""However often a worker dies, its job's history holds each step, evaluation and checkpoint once."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer.test_trainer_verdict import JOB
from trainer_service.core.events import CheckpointSaved, Evaluated, Notice, NoticeLevel, Published, StepDone
from trainer_service.core.job_record import Job
from trainer_service.core.journal import MAX_STEP_EVENTS, Journal, Said


def step(number: int, total: int, loss: float = 1.0) -> StepDone:
    return StepDone(
        step=number,
        total_steps=total,
        loss=loss,
        learning_rate=number / total,
        gradient_norm=2.0,
        tokens_per_second=10.0,
        epoch=0.0,
        device_memory_bytes=number,
    )


class History:
    """A job's events as the database keeps them, and what they say about it."""

    def __init__(self) -> None:
        self.events: list[Said] = []

    def add(self, events: list[Said]) -> None:
        self.events += events

    def job(self) -> Job:
        steps = [event.step for event in self.events if isinstance(event, StepDone)]
        evaluated = [event.step for event in self.events if isinstance(event, Evaluated)]
        saved = [event.step for event in self.events if isinstance(event, CheckpointSaved)]
        published = [event for event in self.events if isinstance(event, Published)]
        return replace(
            JOB,
            step=max(steps, default=0),
            evaluated_step=max(evaluated, default=-1),
            checkpoint_step=max(saved, default=0),
            version=published[-1].version if published else "",
            alias_number=published[-1].alias_number if published else 0,
        )


def work(total: int, epoch: int, checkpoint: int) -> list[Said | str]:
    """What a worker says from a checkpoint on; where it waits for its word to be kept, and where a
    checkpoint lies on the disk."""
    said: list[Said | str] = [] if checkpoint else [Evaluated(step=0, loss=5.0, is_base=True)]
    for at in range(checkpoint + 1, total + 1):
        said.append(step(at, total))
        if at % epoch == 0 or at == total:
            said += [Evaluated(step=at, loss=1.0, is_base=False), "settle", "written", CheckpointSaved(step=at)]
    return [*said, Published(version="v", alias="prod", alias_number=1)]


@given(
    total=st.integers(1, 40),
    epoch=st.integers(1, 12),
    thinned=st.integers(1, 5),
    deaths=st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=8),
)
def test_every_step_is_told_exactly_once(total: int, epoch: int, thinned: int, deaths: list[tuple[int, bool]]) -> None:
    """A death after so many messages, of the worker or of the service with all that it held back."""
    history, checkpoint = History(), 0
    shrink = max(1, total // thinned)
    for after, flushed in [*deaths, (10_000, True)]:
        journal, kept = Journal(history.job()), list[Said]()
        at = checkpoint
        for said in work(total, epoch, checkpoint)[:after]:
            if said == "settle":
                kept += journal.settle()
                history.add(kept)
                kept = []
            elif said == "written":
                checkpoint = at
            else:
                assert not isinstance(said, str)
                if isinstance(said, StepDone):
                    at = said.step
                    # As if the job were so long that steps share events.
                    said = said.model_copy(update={"total_steps": shrink * MAX_STEP_EVENTS})
                kept += journal.take(said)
        if flushed:
            history.add([*kept, *journal.settle()])
    steps = [event for event in history.events if isinstance(event, StepDone)]
    covered = [number for event in steps for number in range(event.step - event.steps + 1, event.step + 1)]
    assert covered == list(range(1, total + 1))
    evaluated = [event.step for event in history.events if isinstance(event, Evaluated)]
    assert evaluated == sorted(set(evaluated))
    assert {0, total} <= set(evaluated)
    saved = [event.step for event in history.events if isinstance(event, CheckpointSaved)]
    assert saved == sorted(set(saved))
    assert sum(isinstance(event, Published) for event in history.events) == 1
    # In the order in which things happened.
    assert all(
        event.step >= before.step
        for before, event in zip(history.events, history.events[1:], strict=False)
        if isinstance(event, StepDone | Evaluated | CheckpointSaved)
        and isinstance(before, StepDone | Evaluated | CheckpointSaved)
    )


def test_a_short_jobs_steps_have_an_event_each() -> None:
    journal = Journal(JOB)
    assert [event for at in range(1, 11) for event in journal.take(step(at, 10))] == [
        step(at, 10) for at in range(1, 11)
    ]


def test_a_long_jobs_history_is_bounded() -> None:
    total = 187_500  # three epochs of a million rows, 16 a step
    journal = Journal(JOB)
    events = [event for at in range(1, total + 1) for event in journal.take(step(at, total, loss=float(at)))]
    assert len(events) <= MAX_STEP_EVENTS
    assert events[-1].step == total
    first = events[0]
    assert isinstance(first, StepDone)
    assert (first.step, first.steps) == (38, 38)
    assert first.loss == sum(range(1, 39)) / 38
    assert first.tokens_per_second == pytest.approx(10.0)
    assert (first.learning_rate, first.device_memory_bytes) == (38 / total, 38)


def test_what_is_said_between_steps_keeps_its_place() -> None:
    journal, total = Journal(JOB), 3 * MAX_STEP_EVENTS
    notice = Notice(level=NoticeLevel.INFO, message="n")
    said = [*journal.take(step(1, total)), *journal.take(notice), *journal.take(step(2, total)), *journal.settle()]
    assert [event.kind for event in said] == ["step_done", "notice", "step_done"]
