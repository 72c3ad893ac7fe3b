"""Trainers for tests: one for a module, or one of a test's own that it may kill."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trainer_process import TrainerProcess


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, miniature: Path) -> Iterator[TrainerProcess]:
    made = TrainerProcess(tmp_path_factory.mktemp("trainer"), miniature).start()
    yield made
    assert made.end() == 0


@pytest.fixture
def own_trainer(tmp_path: Path, miniature: Path) -> Iterator[Callable[..., TrainerProcess]]:
    """Makes trainers of this test alone, for tests that kill them."""
    made: list[TrainerProcess] = []

    def make(**settings: str) -> TrainerProcess:
        made.append(TrainerProcess(tmp_path / f"trainer-{len(made)}", miniature, **settings).start())
        return made[-1]

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.end(signal.SIGKILL)


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
