"""One registry for a module's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.registry.registry_process import RegistryProcess


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    running = RegistryProcess(tmp_path_factory.mktemp("registry"))
    made = running.graft("tenant", "create", "acme")
    assert made.returncode == 0, made.stderr
    yield running
    assert running.stop() == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an adapter may be made; not there yet."""
    return tmp_path / "adapter"
