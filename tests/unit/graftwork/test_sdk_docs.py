"""The code of docs/sdk.md is right: every block type-checks as a program of its own, and every name of the tables exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from graftwork import Client, Job, sdk

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/sdk.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_every_block_of_code_type_checks(tmp_path: Path) -> None:
    assert len(BLOCKS) >= 5
    files = []
    for number, block in enumerate(BLOCKS):
        files.append(tmp_path / f"block_{number}.py")
        files[-1].write_text(block)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            str(tmp_path),
            *files,
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tables_name_what_there_is_and_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/trainer.address").write_text("127.0.0.1:1")
    with Client(home=tmp_path) as client:
        kinds = {
            f"`client.{part}`": type(getattr(client, part))
            for part in ("tenants", "datasets", "jobs", "adapters", "serving", "audit")
        } | {"a `Job`": Job, "`client`": Client}
    for head, kind in kinds.items():
        (row,) = re.findall(rf"^\| {re.escape(head)} \| (.*) \|$", PAGE, re.MULTILINE)
        named = {word for quoted in re.findall(r"`([^`]+)`", row) for word in quoted.split()}
        calls = {name for name in vars(kind) if not name.startswith("_") and callable(getattr(kind, name))}
        assert named == calls, head


def test_every_error_that_the_sdk_offers_is_in_the_table() -> None:
    offered = {name for name in sdk.__all__ if issubclass(getattr(sdk, name), Exception)}
    missing = {name for name in offered if f"`{name}`" not in PAGE}
    assert not missing
