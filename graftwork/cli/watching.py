"""Shows a job's events as they come: state, progress bar with loss and time left, evaluations, notices.

Owns how events look. Does not own the stream (`Client.watch_job`).
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from graftwork.cli.session import Session
from graftwork.v1 import trainer_pb2 as pb


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
        self._session = session
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=session.err,
            disable=session.as_json,
        )
        self._title = title
        self._task = self._bar.add_task(title, total=None, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, events: Iterable[pb.JobEvent]) -> None:
        """Shows events until the stream ends."""
        for event in events:
            self._show(event)

    def _show(self, event: pb.JobEvent) -> None:
        match event.WhichOneof("event"):
            case "state_changed":
                change = event.state_changed
                self._bar.update(self._task, description=f"{self._title} {state_name(change.state).lower()}")
                if change.message:
                    self._say(f"{state_name(change.state)}: {change.message}")
            case "step_done":
                step = event.step_done
                figures = f"loss {step.loss:.4f}  lr {step.learning_rate:.2g}  {step.tokens_per_second:,.0f} tokens/s"
                self._bar.update(self._task, completed=step.step, total=step.total_steps, figures=figures)
            case "evaluated":
                what = "base" if event.evaluated.is_base else f"step {event.evaluated.step}"
                self._say(f"held-out loss, {what}: {event.evaluated.loss:.4f}")
            case "notice":
                level = "warning: " if event.notice.level == pb.Notice.LEVEL_WARNING else ""
                self._say(f"{level}{event.notice.message}")
            case "published":
                moved = f", {event.published.alias} points at it" if event.published.alias else ""
                self._say(f"published version {event.published.version[:12]}{moved}")

    def _say(self, line: str) -> None:
        self._bar.console.print(line, markup=False) if not self._session.as_json else None
