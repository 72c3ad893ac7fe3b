"""Which decoder layers' matrices a step can be left at is told from the names of their attentions, and only where these say it."""

from typing import Any

import pytest
import torch
from vllm.model_executor.layers.attention import Attention

from serving_service.vllm_plugin.cpu_attention import first_layers


def model(*paths: str) -> torch.nn.Module:
    """One with an attention at each of these places."""
    root = torch.nn.Module()
    for path in paths:
        at: Any = root
        for part in path.split("."):
            if part not in dict(at.named_children()):
                at.add_module(part, torch.nn.Module())
            at = getattr(at, part)
        attention = Attention.__new__(Attention)
        torch.nn.Module.__init__(attention)
        at.add_module("attn", attention)
    return root


def test_three_quarters_of_the_layers_rounded_up_each_with_all_that_is_in_it() -> None:
    six = model(*(f"model.layers.{number}.self_attn" for number in range(6)))
    assert first_layers(six) == tuple(f"model.layers.{number}." for number in range(5))


@pytest.mark.parametrize(
    "paths",
    [
        ("transformer.h.0.attn", "transformer.h.1.attn"),
        ("model.layers.0.self_attn", "model.first.attn"),
        ("model.layers.0.self_attn", "model.layers.0.cross"),
    ],
    ids=["other names", "one outside", "two in one layer"],
)
def test_where_the_names_do_not_say_which_layer_is_which_none_is_named(paths: tuple[str, ...]) -> None:
    assert first_layers(model(*paths)) == ()
