"""Where the deployments lie, and what their tests share by name (a conftest is not one to import from)."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "graftwork"
Manifest = dict[str, Any]


class ChartRefused(Exception):
    """Helm's own words about values or templates that it does not take."""
