"""The training loop: steps, held-out evaluation, checkpoints, and going on after a crash.

Given the same backbone, rows, recipe and number of threads on a CPU, the weights come out the same, bit for bit, however
often the process is killed on the way: batches are a function of (seed, epoch), dropout of (seed, step, row). How a step is cut
into passes, or dealt out to devices, changes nothing beyond rounding.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from trainer_service.core.events import Evaluated, Notice, NoticeLevel, StepDone
from trainer_service.core.recipe import Recipe
from trainer_service.core.states import JobState
from trainer_service.core.worker_messages import Message, Phase
from trainer_service.engine import optimizer as optimizers
from trainer_service.engine.backbone import Grafted
from trainer_service.engine.batches import Batch, Examples, batches, epoch_steps, shares
from trainer_service.engine.checkpoint import Checkpoint, CheckpointFolder, Progress, State
from trainer_service.engine.errors import Diverged, memory_errors_as
from trainer_service.engine.evaluate import mean_loss
from trainer_service.engine.loss import loss_of
from trainer_service.engine.ranks import ALONE, Ranks

MAX_GRADIENT_NORM = 1.0

MAX_SKIPPED = 3
"""Steps in a row without a finite loss and gradient before the job ends: one may be a row's fault, three are the recipe's."""

SHOWN_LINES = 20


@dataclass(frozen=True)
class Limits:
    """What the machine allows; none of it changes the result beyond rounding."""

    micro_batch_tokens: int
    checkpoint_seconds: float


@dataclass(frozen=True)
class Outcome:
    """What a finished training is worth."""

    progress: Progress
    best: State

    @property
    def beats_base(self) -> bool:
        """True when the best epoch's held-out loss is below the base's own."""
        assert self.progress.best_loss is not None
        assert self.progress.base_loss is not None
        return self.progress.best_loss < self.progress.base_loss


@dataclass(frozen=True)
class _Gradients:
    """What the passes of one step left behind, the same on every rank."""

    loss: float
    """Mean over the window's supervised tokens."""
    norm: float
    """Before clipping."""


class Training:
    """One job's training, from step 0 or from its newest checkpoint."""

    def __init__(
        self,
        model: Grafted,
        train: Examples,
        held_out: Examples,
        *,
        recipe: Recipe,
        limits: Limits,
        checkpoints: CheckpointFolder,
        base_digest: str,
        send: Callable[[Message], None],
        lines: Sequence[int] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        """Takes a model fresh from `Grafted`.

        Args:
            model: its adapter is trained in place.
            train: rows to learn from.
            held_out: rows to evaluate on.
            recipe: as resolved.
            limits: of the machine.
            checkpoints: of this job; only the first rank writes.
            base_digest: of the backbone.
            send: gets every event as it happens.
            lines: of `train`'s rows in the data set, for messages; empty: row numbers from 1.
            ranks: the processes that share the work; each is given the same arguments.
        """
        self._model, self._train, self._held_out = model, train, held_out
        self._recipe, self._limits, self._checkpoints, self._send = recipe, limits, checkpoints, send
        self._lines, self._ranks = lines, ranks
        self._per_epoch = recipe.steps_per_epoch(len(train))
        self._total = recipe.total_steps(len(train))
        self._optimizer = optimizers.build(model.parameters, recipe)
        # fp16 alone needs it: bf16 and fp32 have the range.
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=model.needs_loss_scale)
        self._progress = Progress(base_digest)
        self._best: State | None = None

    def run(self) -> Outcome:
        """Trains to the end, or until the held-out loss has not improved for `patience` epochs.

        Raises:
            Diverged: loss or gradient is not finite in MAX_SKIPPED steps in a row.
            DeviceOutOfMemory: a pass of `micro_batch_tokens` does not fit.
        """
        with memory_errors_as(
            f"a pass of {self._limits.micro_batch_tokens} tokens does not fit the device's memory; lower max_length, or ask "
            "for bits=4 or gradient_checkpointing"
        ):
            return self._run()

    def _run(self) -> Outcome:
        self._resume()
        self._ranks.start_alike(self._model.parameters)
        self._model.model.train()
        if self._progress.base_loss is None:
            self._progress = replace(self._progress, base_loss=self._evaluate(is_base=True))
        self._send(Phase(state=JobState.RUNNING))
        epoch, steps = -1, list[list[int]]()
        saved_at = time.monotonic()
        while self._progress.step < self._total and not self._out_of_patience():
            at = self._progress.step
            if at // self._per_epoch != epoch:
                epoch = at // self._per_epoch
                steps = self._steps_of(epoch)
            self._step(at, steps[at % self._per_epoch])
            if (at + 1) % self._per_epoch == 0 or at + 1 == self._total:
                self._finish_epoch()
            elif time.monotonic() - saved_at < self._limits.checkpoint_seconds:
                continue
            self._save()
            saved_at = time.monotonic()
        assert self._best is not None  # the last step always ends an epoch
        return Outcome(self._progress, self._best)

    def _steps_of(self, epoch: int) -> list[list[int]]:
        return epoch_steps(
            self._train.lengths,
            batch_rows=self._recipe.batch_rows,
            seed=self._recipe.seed,
            epoch=epoch,
            grouped=not self._model.decoder.packs,
        )

    def _step(self, at: int, rows: list[int]) -> None:
        started = time.monotonic()
        # Our own dropout needs no generator; a backbone's own (GPT-2 has some) does.
        torch.manual_seed((self._recipe.seed * 1_000_003 + at * self._ranks.count + self._ranks.rank) % 2**63)
        made = self._gradients(at, rows)
        # A loss scale that is still being found makes infinite gradients on purpose; the scaler skips those steps itself.
        if not math.isfinite(made.loss) or not (math.isfinite(made.norm) or self._scaler.is_enabled()):
            self._skip(at, rows)
            return
        rate = optimizers.learning_rate(at, total=self._total, recipe=self._recipe)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self._progress = replace(self._progress, step=at + 1, skipped_in_a_row=0)
        tokens = sum(self._train.lengths[row] for row in rows)
        self._send(
            StepDone(
                step=at + 1,
                total_steps=self._total,
                loss=made.loss,
                learning_rate=rate,
                gradient_norm=made.norm if math.isfinite(made.norm) else 0.0,
                tokens_per_second=tokens / max(1e-9, time.monotonic() - started),
                epoch=(at + 1) / self._per_epoch,
            )
        )

    def _gradients(self, at: int, rows: list[int]) -> _Gradients:
        """Runs the step's passes and leaves clipped gradients, summed over the ranks."""
        model, lengths = self._model, self._train.lengths
        window = sum(int(self._train[row].supervised[1:].sum()) for row in rows)
        scale = float(self._scaler.scale(torch.ones((), device=model.device)))
        total = torch.zeros((), dtype=torch.float64, device=model.device)
        mine = shares(lengths, rows, self._ranks.count)[self._ranks.rank]
        for batch in self._passes(mine):
            model.enter(batch, at)
            loss = loss_of(model, batch, weight=scale / window)
            loss.weighed.backward()  # type: ignore[no-untyped-call]
            total += loss.total
        self._ranks.sum_gradients(model.parameters)
        self._scaler.unscale_(self._optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters, MAX_GRADIENT_NORM))
        (summed,) = self._ranks.sum(float(total))
        return _Gradients(summed / window, norm)

    def _passes(self, rows: list[int]) -> Iterator[Batch]:
        tokens, model = self._limits.micro_batch_tokens, self._model
        return batches(self._train, rows, tokens, pad_id=model.pad_id, packed=model.decoder.packs)

    def _skip(self, at: int, rows: list[int]) -> None:
        """Leaves the weights as they are; too often in a row, and the job ends."""
        self._optimizer.zero_grad(set_to_none=True)
        again = self._progress.skipped_in_a_row + 1
        self._progress = replace(
            self._progress, step=at + 1, skipped=self._progress.skipped + 1, skipped_in_a_row=again
        )
        rate = optimizers.learning_rate(at, total=self._total, recipe=self._recipe)
        what = f"loss or gradient is not finite at step {at + 1}, over {self._named(self._culprits(at, rows) or rows)}"
        if again >= MAX_SKIPPED:
            raise Diverged(
                f"{what}; {again} steps in a row were skipped: lower learning_rate ({rate:g} here), or look at those rows"
            )
        self._send(Notice(level=NoticeLevel.WARNING, message=f"{what}: the step was skipped"))

    def _culprits(self, at: int, rows: list[int]) -> list[int]:
        """Returns the rows whose loss is not finite on its own; none when only their gradient is not."""
        found = []
        with torch.inference_mode():
            for row in rows:
                for batch in self._passes([row]):
                    self._model.enter(batch, at)
                    if not loss_of(self._model, batch).total.isfinite():
                        found.append(row)
        return found

    def _named(self, rows: list[int]) -> str:
        lines = sorted(self._lines[row] if self._lines else row + 1 for row in rows)
        more = f" and {len(lines) - SHOWN_LINES} more" if len(lines) > SHOWN_LINES else ""
        return f"the row(s) of line(s) {', '.join(map(str, lines[:SHOWN_LINES]))}{more}"

    def _evaluate(self, *, is_base: bool) -> float:
        self._send(Phase(state=JobState.EVALUATING))
        loss = mean_loss(self._model, self._held_out, self._limits.micro_batch_tokens, self._ranks)
        if not math.isfinite(loss):
            raise Diverged(f"the held-out loss is not finite after step {self._progress.step}")
        self._send(Evaluated(step=self._progress.step, loss=loss, is_base=is_base))
        return loss

    def _finish_epoch(self) -> None:
        loss = self._evaluate(is_base=False)
        if self._progress.best_loss is None or loss < self._progress.best_loss:
            self._progress = replace(self._progress, best_loss=loss, best_step=self._progress.step)
            self._best = self._model.adapter_state()
        if self._out_of_patience() and self._progress.step < self._total:
            text = (
                f"stopped after step {self._progress.step} of {self._total}: the held-out loss has not improved for "
                f"{self._recipe.patience} epoch(s); the adapter of step {self._progress.best_step} is kept"
            )
            self._send(Notice(level=NoticeLevel.INFO, message=text))
        elif self._progress.step < self._total:
            self._send(Phase(state=JobState.RUNNING))

    def _out_of_patience(self) -> bool:
        """A function of the progress alone, so that a job resumed after its last epoch ends as it would have."""
        patience, progress = self._recipe.patience, self._progress
        if patience is None or progress.best_loss is None:
            return False
        return progress.step - progress.best_step >= patience * self._per_epoch

    def _save(self) -> None:
        if self._ranks.rank != 0:
            return
        state = {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}
        self._checkpoints.save(Checkpoint(self._progress, self._model.adapter_state(), self._best, state))

    def _resume(self) -> None:
        found = self._checkpoints.newest(self._progress.base_digest)
        if found is None:
            return
        self._progress, self._best = found.progress, found.best
        self._model.load_adapter_state(found.adapter)
        self._optimizer.load_state_dict(found.state["optimizer"])
        self._scaler.load_state_dict(found.state["scaler"])
