"""A training ends with the same weights however often it is killed, however its steps are cut; and it ends when it should."""

import re
from pathlib import Path

import pytest
import torch

from trainer_service.core.events import Evaluated, Notice, StepDone
from trainer_service.core.recipe import Fleet, Recipe, RecipeRequest, resolve
from trainer_service.core.rows import Row, Turn
from trainer_service.core.worker_messages import Message
from trainer_service.engine import data
from trainer_service.engine.backbone import Grafted, load_backbone, load_tokenizer
from trainer_service.engine.batches import ExampleList
from trainer_service.engine.checkpoint import CheckpointFolder
from trainer_service.engine.errors import DeviceOutOfMemory, Diverged, UnusableRecipe, memory_errors_as
from trainer_service.engine.optimizer import learning_rate
from trainer_service.engine.tokenizer import Tokenizer
from trainer_service.engine.train import Limits, Training

ROWS = [Row(at, (Turn("user", f"count {at}"), Turn("assistant", "1 2 3 " * (at % 3 + 1)))) for at in range(24)]


class Killed(Exception):
    """Stands for the process's death at one message."""


def training(
    miniature: Path,
    work: Path,
    recipe: Recipe,
    *,
    digest: str = "base",
    die_at_step: int = 0,
    every: float = 1e9,
    pass_tokens: int = 4096,
) -> tuple[Training, list[Message]]:
    tokenizer = load_tokenizer(miniature)
    examples = data.encode(ROWS, tokenizer, max_length=200).examples
    sent: list[Message] = []

    def send(message: Message) -> None:
        if isinstance(message, StepDone) and message.step == die_at_step:
            raise Killed
        sent.append(message)

    torch.manual_seed(recipe.seed)
    model = Grafted(load_backbone(miniature, tokenizer, bits=16, device=torch.device("cpu")), recipe)
    work.mkdir(exist_ok=True)
    made = Training(
        model,
        ExampleList(examples[4:]),
        ExampleList(examples[:4]),
        recipe=recipe,
        limits=Limits(pass_tokens, every),
        checkpoints=CheckpointFolder(work),
        base_digest=digest,
        send=send,
        lines=[row.line for row in ROWS[4:]],
    )
    return made, sent


def recipe_of(**changes: object) -> Recipe:
    asked = {"learning_rate": 1e-2, "epochs": 4.0, "batch_rows": 4, "dropout": 0.1} | changes
    return resolve(RecipeRequest(**asked), rows=len(ROWS), fleet=Fleet())[0]


@pytest.mark.parametrize(("die_at", "every"), [(3, 1e9), (5, 1e9), (8, 1e9), (8, 0.0), (20, 1e9)])
def test_a_killed_training_ends_with_the_same_weights(
    miniature: Path, tmp_path: Path, die_at: int, every: float
) -> None:
    straight, sent = training(miniature, tmp_path / "straight", recipe_of())
    expected = straight.run()
    killed, first = training(miniature, tmp_path / "killed", recipe_of(), die_at_step=die_at, every=every)
    with pytest.raises(Killed):
        killed.run()
    torch.rand(7)  # another process: the global generator is elsewhere
    resumed, second = training(miniature, tmp_path / "killed", recipe_of(), every=every)
    outcome = resumed.run()
    assert outcome.progress == expected.progress
    for name, weights in expected.best.items():
        assert torch.equal(outcome.best[name], weights), name
    steps = {m.step: m.loss for m in [*first, *second] if isinstance(m, StepDone)}
    assert steps == {m.step: m.loss for m in sent if isinstance(m, StepDone)}
    if every == 0.0:  # a checkpoint at every step: nothing is done twice but the step that died
        assert next(m.step for m in second if isinstance(m, StepDone)) == die_at


def test_the_best_epoch_is_kept_and_the_base_is_measured_first(miniature: Path, tmp_path: Path) -> None:
    made, sent = training(miniature, tmp_path / "w", recipe_of())
    outcome = made.run()
    evaluations = [m for m in sent if isinstance(m, Evaluated)]
    assert [m.step for m in evaluations] == [0, 5, 10, 15, 20]
    assert [m.is_base for m in evaluations] == [True, False, False, False, False]
    assert outcome.progress.base_loss == evaluations[0].loss
    best = min(evaluations[1:], key=lambda m: m.loss)
    assert (outcome.progress.best_loss, outcome.progress.best_step) == (best.loss, best.step)
    assert outcome.beats_base


def test_a_job_does_not_go_on_on_another_backbone(miniature: Path, tmp_path: Path) -> None:
    killed, _ = training(miniature, tmp_path / "w", recipe_of(), die_at_step=8)
    with pytest.raises(Killed):
        killed.run()
    resumed, _ = training(miniature, tmp_path / "w", recipe_of(), digest="other")
    with pytest.raises(UnusableRecipe, match="backbone was replaced"):
        resumed.run()


@pytest.mark.parametrize("pass_tokens", [1, 150])
def test_smaller_passes_change_nothing_beyond_rounding(miniature: Path, tmp_path: Path, pass_tokens: int) -> None:
    whole, _ = training(miniature, tmp_path / "whole", recipe_of(epochs=2.0, dropout=0.3))
    expected = whole.run()
    cut, _ = training(miniature, tmp_path / "cut", recipe_of(epochs=2.0, dropout=0.3), pass_tokens=pass_tokens)
    outcome = cut.run()
    assert outcome.progress.best_loss == pytest.approx(expected.progress.best_loss, rel=1e-4)
    for name, weights in expected.best.items():
        torch.testing.assert_close(outcome.best[name], weights, rtol=1e-2, atol=1e-4)


def poison(made: Training, letter: str, tokenizer: Tokenizer) -> None:
    """Makes the embedding of a letter NaN while training, as a broken weight would be."""
    (token,) = tokenizer([letter], add_special_tokens=False)["input_ids"][0]
    model = made._model.model

    def spoil(_: torch.nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        return out.masked_fill((args[0] == token)[..., None], float("nan")) if model.training else out

    model.get_input_embeddings().register_forward_hook(spoil)


def test_steps_of_a_row_that_is_no_number_are_skipped_and_the_row_named(miniature: Path, tmp_path: Path) -> None:
    made, sent = training(miniature, tmp_path / "w", recipe_of(epochs=2.0))
    poison(made, "7", load_tokenizer(miniature))
    outcome = made.run()
    notices = [m.message for m in sent if isinstance(m, Notice)]
    named = sorted(re.findall(r"line\(s\) ([\d, ]+)", " ".join(notices)))
    assert set(named) <= {"7", "17", "7, 17"}
    assert named.count("7") + named.count("7, 17") == 2  # once an epoch
    assert outcome.progress.skipped == len(notices)
    assert outcome.progress.step == 10
    assert len([m for m in sent if isinstance(m, StepDone)]) == 10 - len(notices)
    assert all(bool(weights.isfinite().all()) for weights in outcome.best.values())


def test_three_such_steps_in_a_row_end_the_job(miniature: Path, tmp_path: Path) -> None:
    made, sent = training(miniature, tmp_path / "w", recipe_of(batch_rows=2))
    poison(made, "c", load_tokenizer(miniature))
    with pytest.raises(Diverged, match=r"step 3, over the row\(s\) of line\(s\) \d+, \d+; 3 steps in a row"):
        made.run()
    assert [m.message for m in sent if isinstance(m, Notice)][1].startswith("loss or gradient is not finite at step 2")


def test_an_infinite_gradient_of_a_finite_loss_is_skipped_too(miniature: Path, tmp_path: Path) -> None:
    made, sent = training(miniature, tmp_path / "w", recipe_of(epochs=1.0))
    first, calls = made._model.parameters[0], []
    first.register_hook(lambda grad: grad * float("inf") if (calls.append(0) or len(calls) == 2) else grad)
    outcome = made.run()
    (notice,) = [m for m in sent if isinstance(m, Notice)]
    assert "step 2" in notice.message
    assert outcome.progress.skipped == 1


def test_patience_ends_a_training_that_no_longer_gets_better(miniature: Path, tmp_path: Path) -> None:
    flat = recipe_of(learning_rate=1e-30, patience=1)
    made, sent = training(miniature, tmp_path / "w", flat)
    outcome = made.run()
    assert (outcome.progress.step, outcome.progress.best_step) == (10, 5)
    assert "stopped after step 10 of 20" in next(m.message for m in sent if isinstance(m, Notice))
    again, sent = training(miniature, tmp_path / "w", flat)  # killed just before it could publish
    assert again.run().progress == outcome.progress
    assert not [m for m in sent if isinstance(m, StepDone | Evaluated)]


def test_the_rate_warms_up_and_ends_near_zero() -> None:
    recipe = recipe_of(warmup_ratio=0.1, learning_rate=1.0)
    rates = [learning_rate(step, total=100, recipe=recipe) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * at for at in range(1, 11)])
    assert max(rates) == rates[9]
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_memory_that_cannot_be_had_has_a_type_of_its_own() -> None:
    with (
        pytest.raises(DeviceOutOfMemory, match="a pass of 9 tokens"),
        memory_errors_as("a pass of 9 tokens is too large"),
    ):
        torch.empty(1 << 50)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), memory_errors_as("not this"):
        torch.ones(2, 3) @ torch.ones(2, 3)
