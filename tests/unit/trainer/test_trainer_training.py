"""A training that is killed and resumed ends with the same weights, bit for bit."""

from pathlib import Path

import pytest
import torch

from trainer_service.core.events import Evaluated, StepDone
from trainer_service.core.recipe import Fleet, Recipe, RecipeRequest, resolve
from trainer_service.core.rows import Row, Turn
from trainer_service.core.worker_messages import Message
from trainer_service.engine import data
from trainer_service.engine.backbone import Grafted, load_backbone, load_tokenizer
from trainer_service.engine.checkpoint import CheckpointFolder
from trainer_service.engine.errors import Diverged, UnusableRecipe
from trainer_service.engine.optimizer import learning_rate
from trainer_service.engine.train import Limits, Training

ROWS = [Row(at, (Turn("user", f"count {at}"), Turn("assistant", "1 2 3 " * (at % 3 + 1)))) for at in range(24)]


class Killed(Exception):
    """Stands for the process's death at one message."""


def training(
    miniature: Path, work: Path, recipe: Recipe, *, digest: str = "base", die_at_step: int = 0, every: float = 1e9
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
        examples[4:],
        examples[:4],
        recipe=recipe,
        limits=Limits(4096, every),
        checkpoints=CheckpointFolder(work),
        base_digest=digest,
        send=send,
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


def test_a_loss_that_is_no_number_ends_the_job(miniature: Path, tmp_path: Path) -> None:
    made, _ = training(miniature, tmp_path / "w", recipe_of())
    with torch.no_grad():
        made._model.parameters[0].fill_(float("nan"))
    with pytest.raises(Diverged):
        made.run()


def test_the_rate_warms_up_and_ends_near_zero() -> None:
    recipe = recipe_of(warmup_ratio=0.1, learning_rate=1.0)
    rates = [learning_rate(step, total=100, recipe=recipe) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * at for at in range(1, 11)])
    assert max(rates) == rates[9]
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.001
