"""`graft job plot`: the curves of a job, as a picture and in the terminal.

Drawing libraries are imported when a plot is asked for: they are an extra of the package.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.job_logs import told_so_far
from graftwork.cli.jobs import JobId, Tenant, full_name
from graftwork.cli.session import last_id, session_of
from graftwork.errors import ErrorCode, GraftError
from graftwork.v1 import trainer_pb2 as pb

Curve = list[tuple[int, float]]
"""(step, value) in the order of steps."""


class NothingToPlot(GraftError):
    """No curve yet, or no library to draw it with."""

    code = ErrorCode.PRECONDITION


@dataclass(slots=True)
class Curves:
    """What a job's events say over its steps."""

    loss: Curve = field(default_factory=list)
    held_out: Curve = field(default_factory=list)
    learning_rate: Curve = field(default_factory=list)
    base: float | None = None

    def add(self, event: pb.JobEvent) -> None:
        """Takes the next event."""
        match event.WhichOneof("event"):
            case "step_done":
                self.loss.append((event.step_done.step, event.step_done.loss))
                self.learning_rate.append((event.step_done.step, event.step_done.learning_rate))
            case "evaluated" if event.evaluated.is_base:
                self.base = event.evaluated.loss
            case "evaluated":
                self.held_out.append((event.evaluated.step, event.evaluated.loss))


def plot(
    context: typer.Context,
    job: JobId,
    tenant: Tenant = None,
    out: Annotated[Path | None, typer.Option(help="PNG to write; default: job-ID.png, unless --terminal.")] = None,
    terminal: Annotated[bool, typer.Option("--terminal", help="Draw here.")] = False,
) -> None:
    """Draw a job's training loss, held-out loss and learning rate over its steps."""
    session = session_of(context)
    with session.client() as client:
        found = client.get_job(full_name(session, client, job, tenant))
        curves = Curves()
        for event in told_so_far(client, found):
            curves.add(event)
    if not curves.loss:
        raise NothingToPlot(f"job {last_id(found.name)} has done no step yet; try again when it trains")
    title = f"{found.name.split('/')[1]}/{last_id(found.adapter)}, job {last_id(found.name)}"
    target = out or (None if terminal else Path(f"job-{last_id(found.name)}.png"))
    if target is not None:
        draw_png(curves, title, target)
        session.note(f"wrote {target}")
    if terminal and not session.as_json:
        sys.stdout.write(draw_text(curves, title, session.out.width, colours=session.out.is_terminal) + "\n")
    session.show(
        {
            "job": found.name,
            "out": str(target) if target else None,
            "base_loss": curves.base,
            "loss": curves.loss,
            "held_out_loss": curves.held_out,
            "learning_rate": curves.learning_rate,
        }
    )


def smoothed(curve: Curve) -> Curve:
    """Returns running means over a twentieth of the points, where there are enough of them for a trend."""
    width = len(curve) // 20
    if width < 2:
        return []
    values = [value for _, value in curve]
    total = sum(values[:width])
    means = [(curve[width - 1][0], total / width)]
    for at in range(width, len(values)):
        total += values[at] - values[at - width]
        means.append((curve[at][0], total / width))
    return means


def draw_png(curves: Curves, title: str, file: Path) -> None:
    """Writes a picture: losses above, on a logarithmic scale where they span much; the learning rate below."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NothingToPlot("drawing needs matplotlib: pip install 'graftwork[plot]', or use --terminal") from None
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    trend = smoothed(curves.loss)
    losses.plot(*_axes(curves.loss), color="tab:blue", alpha=0.35 if trend else 1.0, lw=1, label="training, each step")
    if trend:
        losses.plot(*_axes(trend), color="tab:blue", lw=2, label="training, running mean")
    if curves.held_out:
        losses.plot(*_axes(curves.held_out), "o-", color="tab:orange", lw=2, label="held out")
    if curves.base is not None:
        losses.axhline(curves.base, color="0.4", ls="--", lw=1, label=f"held out, base ({curves.base:.3g})")
    if _spans_much(curves):
        losses.set_yscale("log")
    losses.set(title=title, ylabel="loss, nats a token")
    losses.grid(alpha=0.25)
    losses.legend()
    rates.plot(*_axes(curves.learning_rate), color="tab:green", lw=1.5)
    rates.set(xlabel="step", ylabel="learning rate")
    rates.grid(alpha=0.25)
    rates.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    figure.savefig(file)


def draw_text(curves: Curves, title: str, width: int, *, colours: bool) -> str:
    """Returns the same in characters."""
    try:
        from plotext import figure
    except ImportError:
        raise NothingToPlot("drawing in the terminal needs plotext: pip install 'graftwork[plot]'") from None
    figure.clear.all()  # one figure for the whole process
    figure.plot_size(min(width, 100), 18)
    figure.title(f"{title}: loss, nats a token")
    loss = smoothed(curves.loss) or curves.loss
    figure.draw(figure.signal(*_axes(loss), marker="braille").lines().label("training loss"))
    if curves.held_out:
        figure.draw(figure.signal(*_axes(curves.held_out), marker="x").label("held-out loss"))
    if _spans_much(curves):
        figure.ruler("y").scale("log")
    drawn = str(figure.build().string(colorless=not colours))
    figure.clear.all()
    figure.plot_size(min(width, 100), 8)
    figure.title("learning rate over steps")
    figure.draw(figure.signal(*_axes(curves.learning_rate), marker="braille").lines())
    return f"{drawn}\n{figure.build().string(colorless=not colours)}"


def _spans_much(curves: Curves) -> bool:
    """Whether a linear scale would press the end of the curve flat; only where a logarithm exists."""
    seen = [value for _, value in curves.loss + curves.held_out]
    return 0 < min(seen) * 20 < max(seen)


def _axes(curve: Curve) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]
