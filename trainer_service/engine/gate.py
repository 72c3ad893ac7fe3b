"""What stands between a version in the store and its alias: better than the base, and served as it was trained.

The version itself is kept whatever comes out; `graft adapter promote` moves an alias to it by hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from adapter_store import AdapterStore
from trainer_service.core.events import ProbeOutcome, Published
from trainer_service.core.probe import ProbeRow, Scores
from trainer_service.core.states import JobState
from trainer_service.core.worker_messages import Finished, WorkerSpec
from trainer_service.engine import publish
from trainer_service.engine.patience import Patience
from trainer_service.engine.reporting import Supervisor
from trainer_service.engine.serving_client import probe
from trainer_service.engine.train import Outcome


@dataclass(frozen=True)
class Evidence:
    """What speaks for the adapter; needs no model any more."""

    outcome: Outcome
    rows: Sequence[ProbeRow]
    own: Scores | None
    """Of the rows, by the trainer's model; None: not to be compared."""


def conclude(
    spec: WorkerSpec, version: str, evidence: Evidence, supervisor: Supervisor, store: AdapterStore, patience: Patience
) -> Finished:
    """Moves the job's alias if the gate opens.

    Args:
        spec: the job.
        version: digest of its published version.
        evidence: of the training.
        supervisor: told the probe's outcome, and what was published.
        store: has the version.
        patience: for the store.

    Raises:
        StoreUnavailable: for longer than the patience lasts.
    """
    # After a crash the alias may have moved already, and somebody may have rolled it back since: nothing is asked again.
    moved = patience.call("read the alias", lambda: publish.moved_before(store, spec, version))
    if moved is not None:
        supervisor.send(moved)
        return Finished(state=JobState.SUCCEEDED)
    progress = evidence.outcome.progress
    if not (evidence.outcome.beats_base or spec.publish_anyway):
        supervisor.send(Published(version=version))
        return _gated(
            f"held-out loss {progress.best_loss:.4f} is no better than the base's {progress.base_loss:.4f}",
            "train longer, or create the job with publish_anyway",
        )
    probed = probe(spec, version, evidence.rows, evidence.own, supervisor.send)
    supervisor.send(probed)
    if probed.outcome is ProbeOutcome.FAILED:
        supervisor.send(Published(version=version))
        return _gated(f"probe failed: {probed.message}", "`graft adapter promote` moves it if you know better")
    supervisor.send(patience.call("move the alias", lambda: publish.move_alias(store, spec, version)))
    return Finished(state=JobState.SUCCEEDED)


def _gated(why: str, what_to_do: str) -> Finished:
    return Finished(state=JobState.GATED, message=f"{why}: the version is kept and no alias was moved; {what_to_do}")
