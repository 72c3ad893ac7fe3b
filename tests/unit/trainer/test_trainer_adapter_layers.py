"""Dropout belongs to the token: the asked share, no pattern, the same wherever the token lies; and PEFT's result without it."""

from pathlib import Path

import pytest
import torch

from trainer_service.core.recipe import Fleet, RecipeRequest, resolve
from trainer_service.engine.adapter_layers import TokenDropout, _mix, _odd
from trainer_service.engine.backbone import Grafted, load_backbone, load_tokenizer
from trainer_service.engine.batches import Batch, Example, ExampleList, pack, pad

CPU = torch.device("cpu")
WIDTH = 512


def rows(*lengths: int) -> ExampleList:
    return ExampleList(
        Example(torch.arange(length + 1), torch.ones(length + 1, dtype=torch.bool)) for length in lengths
    )


def kept(batch: Batch, *, p: float = 0.1, seed: int = 0, step: int = 0, layer: int = 0) -> torch.Tensor:
    """Which channels of which tokens survive, bool [tokens, WIDTH]."""
    dropout = TokenDropout(p, seed)
    dropout.enter(batch, step, CPU)
    channels = _odd(_mix(torch.arange(WIDTH) + (layer << 32)))
    return dropout.apply(torch.ones(batch.ids.numel(), WIDTH), channels) > 0


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_the_asked_share_is_dropped_in_every_token_and_channel(p: float) -> None:
    mask = kept(pack(rows(400, 300, 300), [0, 1, 2]), p=p)
    dropped = (~mask).double()
    assert float(dropped.mean()) == pytest.approx(p, rel=0.02)
    for axis in (0, 1):  # a token's or a channel's own share scatters as independent draws would
        count = mask.shape[axis]
        spread = float(dropped.mean(axis).std()) / (p * (1 - p) / count) ** 0.5
        assert 0.9 < spread < 1.1


def test_tokens_channels_layers_steps_and_seeds_are_not_correlated() -> None:
    batch = pack(rows(500, 500), [0, 1])
    mask = kept(batch, p=0.5).double() * 2 - 1
    tokens, width = mask.shape
    for matrix, count in ((mask @ mask.T / width, width), (mask.T @ mask / tokens, tokens)):
        off = matrix[~torch.eye(len(matrix), dtype=torch.bool)]
        assert float(off.std()) * count**0.5 == pytest.approx(1, abs=0.05)
        assert float(off.abs().max()) * count**0.5 < 6.5
    for change in ({"layer": 1}, {"step": 1}, {"seed": 1}):
        other = kept(batch, p=0.5, **change).double() * 2 - 1
        assert abs(float((mask * other).mean())) * (tokens * width) ** 0.5 < 5


def test_a_token_loses_the_same_channels_wherever_it_lies() -> None:
    data = rows(5, 9, 3)
    together = kept(pack(data, [0, 1, 2]), step=7)
    assert torch.equal(kept(pack(data, [1]), step=7), together[5:14])
    assert torch.equal(kept(pack(data, [2, 1]), step=7)[3:], together[5:14])
    assert torch.equal(kept(pad(data, [2, 1], pad_id=0), step=7)[9:], together[5:14])


@pytest.mark.parametrize("preset", ["compact", "quality"])
def test_without_dropout_the_layers_are_pefts(miniature: Path, preset: str) -> None:
    recipe, _ = resolve(RecipeRequest(preset=preset, dropout=0.0, alpha=24), rows=100, fleet=Fleet())
    torch.manual_seed(0)
    model = Grafted(load_backbone(miniature, load_tokenizer(miniature), bits=16, device=CPU), recipe)
    with torch.no_grad():
        for parameter in model.parameters:
            parameter.normal_(std=0.1)
    batch = pack(rows(20, 9), [0, 1])
    found = []
    for training in (True, False):  # in evaluation mode PEFT's own forward runs
        model.model.train(training)
        model.enter(batch, 0)
        loss = model.logits(batch).square().mean()
        found.append((loss.detach(), torch.autograd.grad(loss, model.parameters)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-7)
