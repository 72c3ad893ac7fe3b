"""A registry on a store of its own: what tests of calls, sizes and bad messages share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_store import AdapterStore, open_store
from tests.unit.graftwork.registry_world import OPERATOR, Registry


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "operator.key"
    path.write_text(f"{OPERATOR}\n")
    return path


@pytest.fixture
def registry(store: AdapterStore, key_file: Path) -> Iterator[Registry]:
    running = Registry(store, key_file)
    yield running
    running.stop()
