"""How the tests are divided among several processes (`make test`): what shares a server stays together, the longest first.

Without pytest-xdist, or in one process, it does nothing. Owns the order then, not which tests run.
"""

from pathlib import PurePath

import pytest

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
