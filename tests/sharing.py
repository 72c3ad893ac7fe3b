"""How tests share the machine: those that use one server stay in one process (`make test` has two), and models have one thread.

Owns the order in which processes of pytest-xdist run tests, not which tests run. pytest loads it before anything imports torch.
"""

import os
from pathlib import PurePath
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# Of the tests' processes and all that they start. Models of a test are too small for a second thread to help, and threads that
# wait for each other spin: where others use the cores, a step takes several times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TOGETHER = (
    "tests/integration/serving",
    "tests/integration/line",
    "tests/integration/mistakes",
    "tests/integration/trainer",
    "tests/integration/console",
    "tests/contract",
    "tests/integration/registry",
    "tests/docs",
    "tests/deploy",
)
"""Folders whose tests use the same servers or tools, in the order in which they begin. Everything else is divided by file and
comes after them, so that no process ends long before the others."""


class _ByGroup(LoadScopeScheduling):
    """xdist's own grouping by marks (`loadgroup`) goes by a suffix of a test's id, which pytest 9.2 no longer takes from it."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByGroup:
    """Hands groups out, each to one process."""
    return _ByGroup(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the groups in order."""
    if hasattr(config, "workerinput"):  # one of xdist's processes
        items.sort(key=lambda item: _turn(group_of(item.nodeid)))


def group_of(test: str) -> str:
    """Returns the folder that a test is kept together with, or its file."""
    file = PurePath(test.partition("::")[0]).as_posix()
    return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


def _turn(group: str) -> int:
    return TOGETHER.index(group) if group in TOGETHER else len(TOGETHER)
