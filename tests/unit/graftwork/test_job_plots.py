"""A job's curves out of its events, as a PNG and as text."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from graftwork.cli.job_plots import Curves, draw_png, draw_text, smoothed
from graftwork.v1 import trainer_pb2 as pb


def curves(steps: int, loss: float = 4.0) -> Curves:
    made = Curves()
    made.add(pb.JobEvent(evaluated=pb.Evaluated(step=0, loss=5.0, is_base=True)))
    for at in range(1, steps + 1):
        made.add(pb.JobEvent(step_done=pb.StepDone(step=at, loss=loss / at, learning_rate=1 / at)))
        if at % 10 == 0:
            made.add(pb.JobEvent(evaluated=pb.Evaluated(step=at, loss=loss / at)))
    made.add(pb.JobEvent(notice=pb.Notice(message="n")))
    return made


def test_curves_hold_what_the_events_say() -> None:
    made = curves(20)
    assert made.base == 5.0
    assert made.held_out == [(10, 0.4), (20, 0.2)]
    assert made.loss[:2] == [(1, 4.0), (2, 2.0)]
    assert len(made.learning_rate) == 20


@pytest.mark.parametrize(("steps", "loss"), [(1, 4.0), (9, 4.0), (400, 4.0), (30, 0.0)])
def test_every_job_can_be_drawn(steps: int, loss: float, tmp_path: Path) -> None:
    """One step, no evaluation yet, a long job, a loss of nought that has no logarithm."""
    file = tmp_path / "loss.png"
    draw_png(curves(steps, loss), "acme/ticket", file)
    data = file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1080, 720)
    text = draw_text(curves(steps, loss), "acme/ticket", 80, colours=False)
    assert "acme/ticket" in text
    assert "training loss" in text
    assert "\x1b" not in text


def test_a_running_mean_is_the_mean_of_what_it_spans() -> None:
    curve = [(at, float(at)) for at in range(1, 101)]
    means = smoothed(curve)
    assert means[0] == (5, 3.0)
    assert means[-1] == (100, 98.0)
    assert len(means) == 96
    assert smoothed(curve[:30]) == []


def test_the_command_loads_no_drawing_library_until_it_draws() -> None:
    code = "import sys, graftwork.cli.main; print([m for m in ('matplotlib', 'plotext', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
