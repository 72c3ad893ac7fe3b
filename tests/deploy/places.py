"""Where the deployments lie, and what their tests share by name (a conftest is not one to import from)."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "graftwork"
Manifest = dict[str, Any]


class ChartRefused(Exception):
    """Helm's own words about values or templates that it does not take."""


def resolved(checkers: Path, checkout: Path, *files: str) -> dict[str, Any]:
    """Returns compose files as Docker Compose itself resolves them, with nothing of this process's environment."""
    arguments = [part for file in files for part in ("-f", str(checkout / "deploy" / file))]
    done = subprocess.run(
        [checkers / "docker-compose", *arguments, "config", "--format", "json"],
        env={"PATH": os.environ["PATH"], "HOME": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
