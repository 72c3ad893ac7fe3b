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


@pytest.mark.parametrize(("name", "answers"), [("plain", 1), ("two", 2), ("ended", 1), ("scored", 1), ("stopped", 1)])
def test_bundles_are_the_same_answer(said: dict[str, Any], name: str, answers: int) -> None:
    """With several answers at once, and where a token ends it while others are kept. With log-probabilities, and with texts that may end
    an answer, everything is told at once."""
    unwatched, apart, bundled = said[name]
    assert [len(set(text)) > 5 for text in unwatched["texts"]] == [True] * answers, (
        "no two tokens can be exchanged unseen"
    )
    assert set(unwatched["ends"]) == {"stop" if name == "ended" else "length"}
    for one in (apart, bundled):
        assert {**one, "pieces": 0} == {**unwatched, "pieces": 0}
    if name in ("scored", "stopped"):
        assert bundled["pieces"] > 2
    else:
        # The others are not one for each: what a task has not fetched when the next token comes, vLLM joins.
        assert bundled["pieces"] <= 2 * answers < min(unwatched["pieces"], apart["pieces"])


@pytest.mark.parametrize(("name", "answers"), [("text", 1), ("texts", 2), ("chat", 1), ("whole", 1), ("tools", 1)])
def test_openais_events_are_the_same_text(said: dict[str, Any], name: str, answers: int) -> None:
    """Where the model may call tools they come token by token."""
    apart, bundled = said[name]
    assert (bundled["texts"], bundled["tokens"]) == (apart["texts"], apart["tokens"])
    assert len(apart["texts"]) == answers
    if name == "tools":
        assert bundled["pieces"] > 2
    elif name != "whole":
        assert bundled["pieces"] <= 2 * answers < apart["pieces"]
