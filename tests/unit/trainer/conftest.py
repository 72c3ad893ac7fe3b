"""A miniature backbone with random weights: the real architecture and tokenizer, small enough for every test."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import LlamaForCausalLM

    from trainer_service.engine.pretrain.build import BackboneSpec, build_config, save

    torch.manual_seed(0)
    spec = BackboneSpec(layers=2, width=32, heads=2, max_positions=256)
    folder = tmp_path_factory.mktemp("backbone") / "miniature"
    save(LlamaForCausalLM(build_config(spec)), folder, spec, {})
    return folder
