"""The checkers: Helm, Docker Compose and hadolint themselves, in an environment of their own (deploy/checkers.sh)."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import without
from tests.deploy.places import CHART, ROOT, ChartRefused, Manifest, resolved


@pytest.fixture(scope="session")
def checkers() -> Path:
    """The folder of their commands."""
    done = subprocess.run(
        [ROOT / "deploy" / "checkers.sh"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHON": sys.executable, "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        without(f"no checkers: {done.stderr[-500:]}")
    return ROOT / ".graft-checkers" / "bin"


@pytest.fixture(scope="session")
def helm(checkers: Path) -> Callable[..., Any]:
    """Asks Helm: `helm("render", values)` gives files by name, `helm("lint", values)` its findings."""

    answers: dict[str, str] = {}

    def ask(question: str, values: dict[str, Any]) -> Any:
        given = json.dumps(values)
        if question + given not in answers:
            answers[question + given] = answer(question, given)
        return json.loads(answers[question + given])

    def answer(question: str, given: str) -> str:
        program = Path(__file__).parent / "ask_helm.py"
        done = subprocess.run(
            [checkers / "python", program, question, CHART],
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ChartRefused(done.stderr)
        return done.stdout

    return ask


@pytest.fixture(scope="session")
def render(helm: Callable[..., Any]) -> Callable[[dict[str, Any]], list[Manifest]]:
    """Renders the chart with values; returns the manifests."""

    def manifests(values: dict[str, Any]) -> list[Manifest]:
        files = helm("render", values)
        return [
            manifest
            for name, text in files.items()
            if not name.endswith("NOTES.txt")
            for manifest in yaml.safe_load_all(text)
            if manifest
        ]

    return manifests


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deployment's files as a clone has them, after init.sh."""
    folder = tmp_path_factory.mktemp("checkout")
    tracked = subprocess.run(["git", "ls-files", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    subprocess.run([folder / "deploy/compose/init.sh"], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def project(checkers: Path, checkout: Path) -> dict[str, Any]:
    return resolved(checkers, checkout, "compose.yaml")
