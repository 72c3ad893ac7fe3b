"""The loss does not depend on how a step is cut or padded, and equals the plain one computed on all logits."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from trainer_service.core.recipe import Fleet, Recipe, RecipeRequest, resolve
from trainer_service.core.rows import Row, Turn
from trainer_service.engine import data
from trainer_service.engine.backbone import Grafted, load_backbone, load_tokenizer
from trainer_service.engine.errors import UnusableRecipe
from trainer_service.engine.evaluate import mean_loss
from trainer_service.engine.loss import step_batches, summed

CPU = torch.device("cpu")


def recipe(**changes: object) -> Recipe:
    return resolve(RecipeRequest(dropout=0.0, **changes), rows=100, fleet=Fleet())[0]


def examples_of(miniature: Path, count: int = 12) -> list[data.Example]:
    texts = [("ask " * (1 + at % 5), "answer " * (1 + at * 7 % 6)) for at in range(count)]
    rows = [Row(at, (Turn("user", q), Turn("assistant", a))) for at, (q, a) in enumerate(texts)]
    return data.encode(rows, load_tokenizer(miniature), max_length=200).examples


@pytest.fixture(scope="module")
def grafted(miniature: Path) -> Grafted:
    torch.manual_seed(1)
    model = Grafted(load_backbone(miniature, load_tokenizer(miniature), bits=16, device=CPU), recipe())
    with torch.no_grad():  # B starts at zero, and would hide every gradient of A
        for parameter in model.parameters:
            parameter.normal_(std=0.05)
    return model


def gradients(model: Grafted, batches: list[data.Batch]) -> tuple[float, torch.Tensor]:
    for parameter in model.parameters:
        parameter.grad = None
    window = sum(len(batch.targets) for batch in batches)
    total = 0.0
    for batch in batches:
        part = summed(model, batch) / window
        part.backward()
        total += float(part.detach())
    return total, torch.cat([p.grad.flatten() for p in model.parameters if p.grad is not None])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget=st.integers(1, 600), rows=st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True))
def test_loss_and_gradient_do_not_depend_on_the_cut(
    grafted: Grafted, miniature: Path, budget: int, rows: list[int]
) -> None:
    examples = examples_of(miniature)
    whole = [data.collate(examples, rows, grafted.pad_id)]
    cut = step_batches(grafted, examples, rows, budget)
    loss, gradient = gradients(grafted, whole)
    cut_loss, cut_gradient = gradients(grafted, cut)
    assert cut_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(cut_gradient, gradient, rtol=1e-3, atol=1e-6)


def test_dropping_positions_before_the_head_changes_nothing(grafted: Grafted, miniature: Path) -> None:
    """Against Hugging Face's own loss: each row alone, no padding, all logits, labels of -100 on the prompt."""
    examples = examples_of(miniature)
    rows = list(range(len(examples)))
    loss, gradient = gradients(grafted, [data.collate(examples, rows, grafted.pad_id)])
    hooks = grafted.model.get_output_embeddings()._forward_pre_hooks
    kept = dict(hooks)
    hooks.clear()
    try:
        for parameter in grafted.parameters:
            parameter.grad = None
        window = sum(int(example.supervised.sum()) for example in examples)
        plain = 0.0
        for example in examples:
            logits = grafted.model(input_ids=example.ids[None]).logits
            labels = example.ids.masked_fill(~example.supervised, -100)
            part = F.cross_entropy(logits[0, :-1], labels[1:], ignore_index=-100, reduction="sum") / window
            part.backward()
            plain += float(part.detach())
    finally:
        hooks.update(kept)
    assert loss == pytest.approx(plain, rel=1e-5)
    plain_gradient = torch.cat([p.grad.flatten() for p in grafted.parameters if p.grad is not None])
    torch.testing.assert_close(gradient, plain_gradient, rtol=1e-3, atol=1e-6)


def test_only_the_adapter_gets_gradients(grafted: Grafted, miniature: Path) -> None:
    gradients(grafted, [data.collate(examples_of(miniature), [0, 1], grafted.pad_id)])
    for name, parameter in grafted.model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert (parameter.grad is not None) == ("lora_" in name)


def test_held_out_loss_is_per_token_and_leaves_training_mode(grafted: Grafted, miniature: Path) -> None:
    examples = examples_of(miniature)
    grafted.model.train()
    assert mean_loss(grafted, examples, 64) == pytest.approx(mean_loss(grafted, examples, 10_000), rel=1e-5)
    assert grafted.model.training


def test_a_fresh_adapter_changes_nothing(miniature: Path) -> None:
    tokenizer = load_tokenizer(miniature)
    base = load_backbone(miniature, tokenizer, bits=16, device=CPU)
    example = examples_of(miniature)[5]
    batch = data.collate([example], [0], 0)
    with torch.inference_mode():
        plain = base.model(input_ids=batch.ids).logits[0, batch.positions]
        grafted_logits = Grafted(base, recipe()).logits(batch)
    torch.testing.assert_close(grafted_logits, plain)


def test_a_target_that_the_backbone_lacks_is_named(miniature: Path) -> None:
    base = load_backbone(miniature, load_tokenizer(miniature), bits=16, device=CPU)
    with pytest.raises(UnusableRecipe, match=r"c_attn.*q_proj"):
        Grafted(base, recipe(target_modules=("c_attn",)))


@pytest.mark.parametrize("changes", [{"preset": "quality"}, {"bits": 4}, {"gradient_checkpointing": True}])
def test_variants_of_the_recipe_learn(miniature: Path, changes: dict[str, object]) -> None:
    model = Grafted(
        load_backbone(miniature, load_tokenizer(miniature), bits=recipe(**changes).bits, device=CPU), recipe(**changes)
    )
    examples = examples_of(miniature)
    optimizer = torch.optim.AdamW(model.parameters, lr=2e-2)
    losses = []
    for _ in range(8):
        loss, gradient = gradients(model, [data.collate(examples, list(range(len(examples))), model.pad_id)])
        assert torch.isfinite(gradient).all()
        optimizer.step()
        losses.append(loss)
    assert losses[-1] < losses[0] - 0.05
