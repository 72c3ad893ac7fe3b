"""Grafana's files: what their source makes, readable by Grafana's provisioning, and no panel over another."""

import importlib.util
import json
from itertools import combinations

import pytest
import yaml

from tests.deploy.places import ROOT

FOLDER = ROOT / "deploy/grafana"
FILES = sorted((FOLDER / "dashboards").glob("*.json"))


def test_files_are_what_their_source_makes() -> None:
    """`deploy/grafana/make.py` writes them."""
    spec = importlib.util.spec_from_file_location("dashboards", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    assert {file.name: file.read_text() for file in FILES} == source.texts()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_panels_have_places_of_their_own(file: object) -> None:
    panels = json.loads(file.read_text())["panels"]  # type: ignore[attr-defined]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, f"{one} lies over {other}"
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_the_data_source_is_one_that_boards_choose_from() -> None:
    sources = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    for file in FILES:
        board = json.loads(file.read_text())
        variable = board["templating"]["list"][0]
        assert variable["type"] == "datasource"
        assert [source["type"] for source in sources] == [variable["query"]]
        users = {panel["datasource"]["uid"] for panel in board["panels"] if panel["type"] != "row"}
        assert users == {f"${variable['name']}"}
