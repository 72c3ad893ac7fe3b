"""Trainers for tests: one for a module, or one of a test's own that it may kill."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trainer_process import TrainerProcess

from graftwork.signing import SigningKey


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, miniature: Path) -> Iterator[TrainerProcess]:
    home = tmp_path_factory.mktemp("trainer")
    SigningKey.create(home / "signing-key")
    made = TrainerProcess(home, miniature, GRAFT_TRAINER_SIGNING_KEY_FILE=str(home / "signing-key")).start()
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
