"""Shows the store's care: a progress bar for each phase, what was found, a table of how much was moved or removed.

Owns how it looks. Does not own the process (`graftwork.local.store_care`) nor the commands (`store`).
"""

from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from graftwork.cli.session import Session, table
from graftwork.local.store_care import CareFinding, CareProgress

KEPT = 10_000
"""Findings that are kept for the end; the rest is only counted."""
_SHOWN = 50  # findings on the terminal


class CareView:
    """One command on the terminal; silent with --json. Use as a context manager around the work.

    Args:
        session: where to print.

    Attributes:
        findings: what was found, up to KEPT.
        found: how many there were.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=session.err,
            disable=session.as_json,
        )
        self._tasks: dict[str, TaskID] = {}
        self.findings: list[CareFinding] = []
        self.found = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_phases()
        self._bars.stop()

    def progress(self, progress: CareProgress) -> None:
        """Moves a phase's bar; a new phase ends the one before it."""
        if progress.phase not in self._tasks:
            self._end_phases()
            self._tasks[progress.phase] = self._bars.add_task(progress.phase, total=progress.total, amount="")
        write = decimal if progress.unit == "bytes" else "{:,}".format
        of = f"/{write(progress.total)}" if progress.total is not None else ""
        self._bars.update(
            self._tasks[progress.phase],
            completed=progress.done,
            total=progress.total,
            amount=f"{write(progress.done)}{of}",
        )

    def _end_phases(self) -> None:
        """What nobody knew the end of is at its end now."""
        for task in self._bars.tasks:
            if task.total is None:
                self._bars.update(task.id, total=task.completed)

    def finding(self, finding: CareFinding) -> None:
        """Keeps a finding for the end."""
        self.found += 1
        if len(self.findings) < KEPT:
            self.findings.append(finding)

    def show_findings(self) -> None:
        """Prints the worst findings, keys unbroken; nothing with --json, where they are in the value."""
        if self._session.as_json:
            return
        worst = self._worst_first()[:_SHOWN]
        for each in worst:
            style = {"damaged": "bold red", "warning": "yellow"}.get(each.severity, "dim")
            self._session.out.print(Text.assemble("\n", (each.severity, style), f"  {each.key}"))
            self._session.out.print(f"  {each.what}\n  {each.todo}", markup=False)
        if self.found > len(worst):
            self._session.note(f"... and {self.found - len(worst)} more; --json shows up to {KEPT}")

    def plain_findings(self) -> list[dict[str, Any]]:
        """Returns the findings as JSON values, the worst first."""
        return [asdict(finding) for finding in self._worst_first()]

    def _worst_first(self) -> list[CareFinding]:
        order = {"damaged": 0, "warning": 1, "note": 2}
        return sorted(self.findings, key=lambda finding: order.get(finding.severity, 3))


def amounts(columns: tuple[str, str, str], found: dict[str, dict[str, int]]) -> Table:
    """A table of objects and bytes by what they are."""
    rows = [[what, each["objects"], decimal(each["bytes"])] for what, each in sorted(found.items())]
    return table(columns, rows or [["nothing", 0, decimal(0)]])
