"""The loss and its gradient do not depend on how a step is cut, packed, padded or chunked, and equal the plain ones."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from trainer_service.core.recipe import Fleet, Recipe, RecipeRequest, resolve
from trainer_service.core.rows import Row, Turn
from trainer_service.engine import data, loss
from trainer_service.engine.backbone import Grafted, load_backbone, load_tokenizer
from trainer_service.engine.batches import Batch, ExampleList, batches, pack, pad
from trainer_service.engine.errors import UnusableRecipe
from trainer_service.engine.evaluate import mean_loss
from trainer_service.engine.loss import loss_of

CPU = torch.device("cpu")


def recipe(**changes: object) -> Recipe:
    return resolve(RecipeRequest(**{"dropout": 0.0} | changes), rows=100, fleet=Fleet())[0]


def grafted(folder: Path, **changes: object) -> Grafted:
    """A model whose adapter does something: B starts at zero, and would hide every gradient of A."""
    torch.manual_seed(1)
    asked = recipe(**changes)
    model = Grafted(load_backbone(folder, load_tokenizer(folder), bits=asked.bits, device=CPU), asked)
    with torch.no_grad():
        for parameter in model.parameters:
            parameter.normal_(std=0.05)
    return model


@pytest.fixture(scope="module")
def examples(miniature: Path) -> ExampleList:
    texts = [("ask " * (1 + at % 5), "answer " * (1 + at * 7 % 6)) for at in range(12)]
    rows = [Row(at, (Turn("user", q), Turn("assistant", a))) for at, (q, a) in enumerate(texts)]
    return data.encode(rows, load_tokenizer(miniature), max_length=200).examples


@pytest.fixture(scope="module")
def plain(miniature: Path) -> Grafted:
    return grafted(miniature)


@pytest.fixture(scope="module")
def dropping(miniature: Path) -> Grafted:
    return grafted(miniature, dropout=0.3)


def gradients(model: Grafted, passes: list[Batch], *, step: int = 0) -> tuple[float, torch.Tensor]:
    """The step's loss and all its gradients in one row."""
    for parameter in model.parameters:
        parameter.grad = None
    window = sum(len(batch.targets) for batch in passes)
    total = 0.0
    for batch in passes:
        model.enter(batch, step)
        made = loss_of(model, batch, weight=1 / window)
        made.weighed.backward()
        total += float(made.total) / window
    return total, torch.cat([p.grad.flatten() for p in model.parameters if p.grad is not None])


def agree(one: tuple[float, torch.Tensor], other: tuple[float, torch.Tensor]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    torch.testing.assert_close(one[1], other[1], rtol=1e-3, atol=1e-6)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    budget=st.integers(1, 600),
    rows=st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True),
    packed=st.booleans(),
    step=st.integers(0, 1000),
)
def test_loss_and_gradient_do_not_depend_on_the_cut_with_dropout_on(
    dropping: Grafted, examples: ExampleList, budget: int, rows: list[int], packed: bool, step: int
) -> None:
    whole = [pack(examples, rows)]
    cut = list(batches(examples, rows, budget, pad_id=dropping.pad_id, packed=packed))
    agree(gradients(dropping, cut, step=step), gradients(dropping, whole, step=step))


def test_packed_padded_and_lone_rows_agree_with_hugging_faces_own_loss(plain: Grafted, examples: ExampleList) -> None:
    """Each row alone, no padding, all logits, labels of -100 on the prompt."""
    rows = list(range(len(examples)))
    for parameter in plain.parameters:
        parameter.grad = None
    window = sum(int(example.supervised.sum()) for example in examples)
    expected = 0.0
    for example in examples:
        logits = plain.model(input_ids=example.ids[None]).logits
        labels = example.ids.masked_fill(~example.supervised, -100)
        part = F.cross_entropy(logits[0, :-1], labels[1:], ignore_index=-100, reduction="sum") / window
        part.backward()
        expected += float(part.detach())
    reference = expected, torch.cat([p.grad.flatten() for p in plain.parameters if p.grad is not None])
    assert plain.decoder.packs
    assert plain.decoder.plain_head
    agree(gradients(plain, [pack(examples, rows)]), reference)
    agree(gradients(plain, [pad(examples, rows, plain.pad_id)]), reference)
    agree(gradients(plain, [pack(examples, [row]) for row in rows]), reference)


def test_a_packed_row_cannot_see_its_neighbours(plain: Grafted, examples: ExampleList) -> None:
    first = len(pack(examples, [3]).targets)
    alone = plain.logits(pack(examples, [3]))
    for neighbour in (4, 5):
        torch.testing.assert_close(plain.logits(pack(examples, [3, neighbour]))[:first], alone)
        torch.testing.assert_close(plain.logits(pack(examples, [neighbour, 3]))[-first:], alone)


def test_chunks_of_the_vocabulary_change_nothing(
    plain: Grafted, examples: ExampleList, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = [pack(examples, list(range(12)))]
    whole = gradients(plain, passes)
    monkeypatch.setitem(loss.CHUNK_BYTES, "cpu", 4 * 102 * 5)  # five positions at a time
    agree(gradients(plain, passes), whole)
    monkeypatch.setattr(plain.decoder, "plain_head", False)  # as for a model that caps its logits
    agree(gradients(plain, passes), whole)


def test_recomputation_changes_nothing(miniature: Path, dropping: Grafted, examples: ExampleList) -> None:
    passes = [pack(examples, [0, 5, 7])]
    again = grafted(miniature, dropout=0.3, gradient_checkpointing=True)
    agree(gradients(again, passes, step=9), gradients(dropping, passes, step=9))


def test_only_the_adapter_gets_gradients(plain: Grafted, examples: ExampleList) -> None:
    gradients(plain, [pack(examples, [0, 1])])
    for name, parameter in plain.model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert (parameter.grad is not None) == ("lora_" in name)


def test_held_out_loss_is_per_token_and_leaves_training_mode(dropping: Grafted, examples: ExampleList) -> None:
    dropping.model.train()
    assert mean_loss(dropping, examples, 64) == pytest.approx(mean_loss(dropping, examples, 10_000), rel=1e-5)
    assert dropping.model.training


def test_looking_at_the_held_out_loss_changes_no_gradient_of_a_4_bit_backbone(
    miniature: Path, examples: ExampleList, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On processors with AVX-512 and bfloat16 bitsandbytes would repack its layers then, and they would have none any more."""
    from bitsandbytes.nn import Linear4bit, modules

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    model = grafted(miniature, bits=4)
    layers = [module for module in model.model.modules() if isinstance(module, Linear4bit)]
    batch = [pack(examples, list(range(len(examples))))]
    _, before = gradients(model, batch)
    before = before.clone()
    mean_loss(model, examples, 64)
    _, after = gradients(model, batch)
    torch.testing.assert_close(after, before)
    assert layers
    assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)


def test_a_fresh_adapter_changes_nothing(miniature: Path, examples: ExampleList) -> None:
    base = load_backbone(miniature, load_tokenizer(miniature), bits=16, device=CPU)
    batch = pack(examples, [5])
    with torch.inference_mode():
        expected = base.model(input_ids=batch.ids).logits[0, batch.positions]
        found = Grafted(base, recipe()).logits(batch)
    torch.testing.assert_close(found, expected)


def test_a_target_that_the_backbone_lacks_is_named(miniature: Path) -> None:
    base = load_backbone(miniature, load_tokenizer(miniature), bits=16, device=CPU)
    with pytest.raises(UnusableRecipe, match=r"c_attn.*q_proj"):
        Grafted(base, recipe(target_modules=("c_attn",)))


@pytest.mark.parametrize("changes", [{"preset": "quality"}, {"bits": 4}, {"gradient_checkpointing": True}])
def test_variants_of_the_recipe_learn(miniature: Path, examples: ExampleList, changes: dict[str, object]) -> None:
    model = grafted(miniature, **changes)
    optimizer = torch.optim.AdamW(model.parameters, lr=2e-2)
    losses = []
    for _ in range(8):
        found, gradient = gradients(model, [pack(examples, list(range(len(examples))))])
        assert torch.isfinite(gradient).all()
        optimizer.step()
        losses.append(found)
    assert losses[-1] < losses[0] - 0.05
