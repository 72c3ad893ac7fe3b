"""How a benchmark tells its figures: medians with their spread, one table for people, one JSON file for machines.

Owns the output only. What is measured, and beside which peer, is each benchmark's own.
"""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure measured several times.

    Attributes:
        median, least, most: of the runs.
        runs: how many there were.
    """

    median: float
    least: float
    most: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g} to {self.most:.3g})"

    def to_json(self) -> dict[str, float]:
        return {"median": self.median, "min": self.least, "max": self.most, "runs": self.runs}


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    return made


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"cpus": len(os.sched_getaffinity(0)), "processor": _processor(), "load": os.getloadavg()[0]}


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=200, highlight=False).print(table)


def write(file: Path | None, figures: dict[str, Any]) -> None:
    """Writes the figures with the machine they are from; nothing without a file."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": machine(), **figures}, indent=2, default=_plain)
        file.write_text(text + "\n", "utf-8")


def _plain(value: object) -> Any:
    if isinstance(value, Spread):
        return value.to_json()
    raise TypeError(f"{type(value).__name__} is no figure")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
