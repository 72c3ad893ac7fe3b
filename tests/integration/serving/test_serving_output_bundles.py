"""A flood's answers come in bundles from the real engine, over both APIs, and are the same answers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graftwork.backbone import default_path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    program = str(Path(__file__).with_name("bundles_program.py"))
    done = subprocess.run(
        [sys.executable, program, str(default_path()), str(tmp_path_factory.mktemp("bundles"))],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(("name", "answers"), [("plain", 1), ("two", 2), ("scored", 1), ("stopped", 1)])
def test_bundles_are_the_same_answer(said: dict[str, Any], name: str, answers: int) -> None:
    """With several answers at once, log-probabilities, and texts that end an answer: the last two come token by token."""
    unwatched, apart, bundled = said[name]
    assert [len(set(text)) > 5 for text in unwatched["texts"]] == [True] * answers, (
        "no two tokens can be exchanged unseen"
    )
    for one in (apart, bundled):
        assert {**one, "pieces": 0} == {**unwatched, "pieces": 0}
    # Not one for each: what a task has not fetched when the next token comes, vLLM joins.
    assert min(unwatched["pieces"], apart["pieces"]) > sum(unwatched["tokens"]) / 2
    assert bundled["pieces"] <= 2 * answers if name in ("plain", "two") else bundled["pieces"] > 12


@pytest.mark.parametrize("name", ["text", "tools"])
def test_openais_events_are_the_same_text(said: dict[str, Any], name: str) -> None:
    """Where the model may call tools they come token by token."""
    apart, bundled = said[name]
    assert (bundled["text"], bundled["tokens"]) == (apart["text"], apart["tokens"])
    assert apart["pieces"] > 12
    assert bundled["pieces"] <= 2 if name == "text" else bundled["pieces"] > 12
