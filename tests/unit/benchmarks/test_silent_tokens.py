"""Answers of a backbone with random weights have a piece for every token: none that says nothing can be chosen."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from benchmarks import llama_8b
from benchmarks.gateway import backbones
from benchmarks.serving_fleet import Shape, make_backbone
from benchmarks.silent_tokens import silent

SMALL = Shape(1, 32, 64, 2)


def of_the_fleet(folder: Path) -> Path:
    return make_backbone(folder, SMALL)


def of_the_gateway(folder: Path) -> Path:
    backbones.make("mini", folder)
    return folder


def large(folder: Path) -> Path:
    """With a vocabulary larger than its tokenizer's."""
    make_backbone(folder, SMALL)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    llama_8b.write_weights(folder)
    return folder


@pytest.mark.parametrize("make", [of_the_fleet, of_the_gateway, large])
def test_the_likeliest_token_always_has_a_text(make: object, tmp_path: Path) -> None:
    assert callable(make)
    folder: Path = make(tmp_path / "backbone")
    weights = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).float()
    quiet = silent(folder, len(head))
    assert quiet
    assert not head[quiet].any()
    states = torch.randn(200, head.shape[1], generator=torch.Generator().manual_seed(0))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for token in (states @ head.T).argmax(1).unique().tolist():
        assert tokenizer.decode([token], skip_special_tokens=True), token
