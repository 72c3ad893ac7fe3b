"""A job's events as a page takes them: points of curves, changes of state, and lines of its log.

Owns the conversion. Does not own the stream (`streams.py`) nor how a page draws it (`static/job.js`).
"""

from datetime import UTC
from typing import Any

from graftwork.console.rendering import duration, job_state, size
from graftwork.console.streams import Event
from graftwork.v1 import trainer_pb2 as pb


def to_page(event: pb.JobEvent) -> Event:
    """Returns the event for the page, under the job's own number, so that a browser goes on where it was."""
    kind = event.WhichOneof("event")
    data: dict[str, Any] = {"time": event.time.ToDatetime(UTC).isoformat(timespec="seconds")}
    match kind:
        case "step_done":
            step = event.step_done
            data |= {
                "step": step.step,
                "total": step.total_steps,
                "loss": step.loss,
                "rate": step.learning_rate,
                "speed": step.tokens_per_second,
                "gradient": step.gradient_norm,
                "epoch": step.epoch,
                "memory": size(step.device_memory_bytes) if step.device_memory_bytes else "",
            }
            return Event("step", data, event.number)
        case "evaluated":
            done = event.evaluated
            data |= {"step": done.step, "loss": done.loss, "base": done.is_base}
            return Event("evaluated", data, event.number)
        case "state_changed":
            change = event.state_changed
            data |= {"state": job_state(change.state).lower(), "text": change.message, "attempt": change.attempt}
            return Event("state", data, event.number)
    warns = kind == "notice" and event.notice.level == pb.Notice.LEVEL_WARNING
    return Event("line", data | {"text": _line(event), "warns": warns}, event.number)


def _line(event: pb.JobEvent) -> str:
    match event.WhichOneof("event"):
        case "notice":
            return event.notice.message
        case "published":
            moved = f"{event.published.alias} points at it" if event.published.alias else "no alias was moved"
            return f"published version {event.published.version[:12]}; {moved}"
        case "checkpoint_saved":
            return f"checkpoint at step {event.checkpoint_saved.step}"
        case "probed":
            outcome = pb.ProbeOutcome.Name(event.probed.outcome).removeprefix("PROBE_OUTCOME_").lower()
            return f"probe {outcome}: {event.probed.message}"
        case "estimated":
            told = event.estimated
            guess = "" if told.measured_speed else ", a guess: nothing was measured on this device yet"
            return (
                f"{told.tokens:,} tokens in {told.steps:,} steps, {told.trainable_parameters:,} trainable parameters, "
                f"about {size(told.peak_bytes)} and {duration(told.seconds)}{guess}"
            )
        case "measured":
            took = event.measured
            return (
                f"took {duration(took.seconds)} ({duration(took.predicted_seconds)} predicted) and "
                f"{size(took.peak_bytes)} ({size(took.predicted_peak_bytes)} predicted)"
            )
    return "something that this console does not know; it is older than the trainer"
