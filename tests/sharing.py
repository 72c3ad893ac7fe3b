"""How tests share the machine: those that use one server stay in one process (`make test` has two), and models have one thread.

Owns the order in which processes of pytest-xdist run tests, not which tests run. pytest loads it before anything imports torch.
"""

import os
from pathlib import PurePath

import pytest

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives each test the name of its group, and puts the groups in order."""
    if not hasattr(config, "workerinput"):  # not one of xdist's processes
        return
    groups = {id(item): group_of(item.nodeid) for item in items}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[id(item)]))
    items.sort(key=lambda item: _turn(groups[id(item)]))


def group_of(test: str) -> str:
    """Returns the folder that a test is kept together with, or its file."""
    file = PurePath(test.partition("::")[0]).as_posix()
    return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


def _turn(group: str) -> int:
    return TOGETHER.index(group) if group in TOGETHER else len(TOGETHER)
