"""A step that is left half-way leaves nothing wrong behind: in the real engine, at random and for newcomers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftwork.backbone import default_path
from tests.integration.serving.serving_world import make_adapter

pytestmark = pytest.mark.slow

Said = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    root = tmp_path_factory.mktemp("left")
    adapters = [make_adapter(default_path(), root / f"a{seed}", rank=8 * seed, seed=seed) for seed in (1, 2)]
    program = str(Path(__file__).with_name("steps_left_program.py"))

    def run(how: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, program, how, str(default_path()), *map(str, adapters), str(root)],
            capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # its engine's process finds the program as a module
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return dict(json.loads(done.stdout.splitlines()[-1]))

    return run


def test_answers_are_the_same_wherever_steps_were_left(said: Said) -> None:
    """With blocks that others are given, requests that go away in between, some that lose their blocks and come back, several answers
    at once, seeds, penalties, scores of prompts and grammars."""
    both = said("random")
    in_pieces, at_once, another = both["seeded"]
    assert in_pieces == at_once != another, "a piece of a prompt draws no random numbers"
    usual, left = both["usual"], both["left"]
    assert usual["counts"]["left"] == 0
    layers = json.loads((default_path() / "config.json").read_text())["num_hidden_layers"]
    assert usual["counts"]["asked"] > 2 * layers * usual["counts"]["steps"], "at the matrices too"
    assert left["counts"]["left"] > 30
    assert left["counts"]["not left"] > 0, "a step that filled a block for another request came up"
    assert left["counts"]["found"] > 5, "blocks were found again"
    assert left["counts"]["pushed out"] > 0
    assert usual["counts"]["blocks in use"] == left["counts"]["blocks in use"] == 0
    assert usual["counts"]["off the books"] == left["counts"]["off the books"] == 0
    assert usual["answers"].keys() == left["answers"].keys()
    for name, answer in usual["answers"].items():
        for mine, other in zip(left["answers"][name], answer, strict=True):
            assert [token for token, _ in mine] == [token for token, _ in other], name
            assert [score for _, score in mine] == pytest.approx([score for _, score in other], abs=1e-3), name


def test_a_newcomer_ends_the_floods_step_and_the_flood_answers_as_it_would_alone(said: Said) -> None:
    both = said("newcomers")
    assert both["left before"] == 0, "there was nobody to be left for"
    assert both["left"] >= 5
    assert both["together"] == both["alone"]
    assert both["spinning"], "in the engine's process libgomp's number is found: else read vllm_plugin/spinning.py"
