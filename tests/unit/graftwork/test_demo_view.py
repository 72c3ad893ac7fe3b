"""The demo's progress: one bar a name, however many threads report at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

from rich.progress import Progress, TaskID

from graftwork.cli.demo import _bars, _view
from graftwork.cli.session import Session
from graftwork.local.home import Home


def test_answers_on_many_threads_share_one_bar(tmp_path: Path) -> None:
    session = Session(Home.open(tmp_path), as_json=True)
    bars = _bars(session)
    view = _view(session, bars)
    together = threading.Barrier(8)
    make = Progress.add_task

    def slow(self: Progress, name: str, total: float | None, figures: str) -> TaskID:
        made = make(self, name, total=total, figures=figures)
        threading.Event().wait(0.05)  # holds the door open: others must find it shut, not the bar missing
        return made

    def report(_: int) -> None:
        together.wait()
        view.asked(8)

    with patch.object(Progress, "add_task", slow), ThreadPoolExecutor(8) as pool:
        list(pool.map(report, range(8)))
    assert [task.completed for task in bars.tasks] == [8]
