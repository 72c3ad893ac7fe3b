"""A trainer whose state or store may lie on a small disk, and `graft` against it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from graftwork.backbone import default_path
from tests.conftest import without
from tests.integration.trainer.trainer_process import OPERATOR_KEY, TrainerProcess

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("GRAFT_", "AWS_"))}


@dataclass(frozen=True)
class Command:
    """`graft` with one trainer's address; `fails` is for commands that must end with 1 and one line."""

    home: Path
    address: str

    def fails(self, *arguments: str, key: str = OPERATOR_KEY, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "graftwork.cli.main", "--home", str(self.home), *arguments],
            capture_output=True,
            text=True,
            env=CLEAN | {"GRAFT_TRAINER": self.address, "GRAFT_API_KEY": key} | environment,
            timeout=120,
        )
        assert done.returncode == 1, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("graft: "), done.stderr
        assert "internal error" not in last
        return last


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainerProcess]:
    made = TrainerProcess(tmp_path_factory.mktemp("trainer"), default_path()).start()
    made.store.tenants.create("acme")
    yield made
    assert made.end() == 0


@pytest.fixture
def command(trainer: TrainerProcess, tmp_path: Path) -> Command:
    return Command(tmp_path / "home", trainer.address)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes file systems of a given size, `2m`, that are really full when they are full."""
    mounted: list[Path] = []

    def make(size: str) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "graft-test", str(folder)], capture_output=True
        )
        if done.returncode != 0:
            without(f"cannot mount a small disk: {done.stderr.decode()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
