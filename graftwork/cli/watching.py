"""Shows a job's events as they come: a progress bar with time left, the newest figures under it, and a line for
whatever else happens.

Owns how events look. Does not own the stream (`Client.watch_job`).
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from graftwork.cli.dry_run import duration
from graftwork.cli.session import Session
from graftwork.v1 import trainer_pb2 as pb

_LINES = 10
"""Lines of steps in a log or a pipe, where no bar can be drawn: one for every tenth of the job."""


def state_name(state: pb.JobState) -> str:
    """`RUNNING` for JOB_STATE_RUNNING."""
    return pb.JobState.Name(state).removeprefix("JOB_STATE_")


class JobView:
    """One job on the terminal; silent with --json. Use as a context manager.

    Args:
        session: where to print.
        title: what the progress bar is called.
    """

    def __init__(self, session: Session, title: str) -> None:
        self._session, self._title = session, title
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task(title, total=None)
        self._figures, self._held_out = Text(), ""
        self._live = Live(
            Group(self._bar, self._figures),
            console=session.err,
            auto_refresh=True,
            refresh_per_second=4,
            transient=False,
        )
        self._draws = session.err.is_terminal and not session.as_json
        self._told = 0

    def __enter__(self) -> Self:
        if self._draws:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._draws:
            self._live.stop()

    def show(self, events: Iterable[pb.JobEvent]) -> None:
        """Shows events until the stream ends."""
        for event in events:
            self._show(event)

    def _show(self, event: pb.JobEvent) -> None:
        if event.WhichOneof("event") == "step_done":
            self._show_step(event.step_done)
            return
        if event.WhichOneof("event") == "state_changed":
            name = state_name(event.state_changed.state).lower()
            self._bar.update(self._task, description=f"{self._title} {name}")
        elif event.WhichOneof("event") == "evaluated":
            self._held_out = f"  held-out {event.evaluated.loss:.4f}"
        if (line := describe(event)) and event.WhichOneof("event") != "checkpoint_saved":
            self._say(line)

    def _show_step(self, step: pb.StepDone) -> None:
        self._bar.update(self._task, completed=step.step, total=step.total_steps)
        line = f"loss {step.loss:.4f}{self._held_out}  {_figures(step)}"
        self._figures.plain = f"  {line}"
        part = step.step * _LINES // max(1, step.total_steps)
        if not self._draws and part > self._told:
            self._told = part
            self._say(f"step {step.step}/{step.total_steps}  {line}")

    def _say(self, line: str) -> None:
        if not self._session.as_json:
            self._live.console.print(line, markup=False)


def describe(event: pb.JobEvent) -> str:
    """An event in one line; empty for a change of state that says nothing but its name."""
    match event.WhichOneof("event"):
        case "state_changed":
            change = event.state_changed
            return f"{state_name(change.state)}: {change.message}" if change.message else ""
        case "step_done":
            step = event.step_done
            return f"step {step.step}/{step.total_steps}  loss {step.loss:.4f}  {_figures(step)}"
        case "evaluated":
            what = "base" if event.evaluated.is_base else f"step {event.evaluated.step}"
            return f"held-out loss, {what}: {event.evaluated.loss:.4f}"
        case "notice":
            level = "warning: " if event.notice.level == pb.Notice.LEVEL_WARNING else ""
            return f"{level}{event.notice.message}"
        case "published":
            moved = f", {event.published.alias} points at it" if event.published.alias else ", no alias was moved"
            return f"published version {event.published.version[:12]}{moved}"
        case "checkpoint_saved":
            return f"checkpoint at step {event.checkpoint_saved.step}"
        case "probed":
            outcome = pb.ProbeOutcome.Name(event.probed.outcome).removeprefix("PROBE_OUTCOME_").lower()
            return f"probe {outcome}: {event.probed.message}"
        case "estimated":
            return _estimated(event.estimated)
        case "measured":
            return _measured(event.measured)
    return ""


def _figures(step: pb.StepDone) -> str:
    memory = f"  {step.device_memory_bytes / 2**30:.1f} GiB" if step.device_memory_bytes else ""
    return f"lr {step.learning_rate:.2g}  gradient {step.gradient_norm:.2g}  {step.tokens_per_second:,.0f} tokens/s{memory}"


def _estimated(event: pb.Estimated) -> str:
    guess = "" if event.measured_speed else ", a guess: nothing was measured on this device yet"
    return (
        f"{event.tokens:,} tokens in {event.steps:,} steps, {event.trainable_parameters:,} trainable parameters, about "
        f"{event.peak_bytes / 1e9:.2g} GB and {duration(event.seconds)}{guess}"
    )


def _measured(event: pb.Measured) -> str:
    seconds = event.seconds / event.predicted_seconds if event.predicted_seconds else 0.0
    memory = event.peak_bytes / event.predicted_peak_bytes if event.predicted_peak_bytes else 0.0
    return (
        f"took {duration(event.seconds)} ({seconds:.2f} of the prediction) and {event.peak_bytes / 1e9:.2g} GB "
        f"({memory:.2f} of the prediction)"
    )
