"""Databases of the suites of jobs, queue and lease; stores of those of the store's care."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.contract.collected import Folders, Samples
from tests.contract.jobs_database import DATABASES
from trainer_service.core.database import Database, open_database
from trainer_service.core.jobs import Jobs


@pytest.fixture(params=DATABASES)
def database_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    if database_kind == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    return str(request.getfixturevalue("postgres").database())


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url)
    yield opened
    opened.close()


@pytest.fixture
def jobs(database: Database) -> Jobs:
    return Jobs(database)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return Samples.make(tmp_path_factory.mktemp("samples"))


@pytest.fixture
def folders() -> Iterator[Folders]:
    """In memory where there is a file system for that: some tests open hundreds of stores."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="graft-test-", dir=memory if os.access(memory, os.W_OK) else None) as root:
        yield Folders(Path(root))
