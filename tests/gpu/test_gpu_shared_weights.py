"""On one GPU an engine of merged weights computes with the backbone's memory, answers like one that has its own, and ends with it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = str(Path(__file__).with_name("shared_device_program.py"))


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("shared")
    subprocess.run([sys.executable, PROGRAM, "make", "small", str(folder)], check=True, timeout=300)
    done = subprocess.run(
        [sys.executable, PROGRAM, "run", "small", str(folder), "second"], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    return {line["stage"]: line for line in lines if "stage" in line}


def test_it_takes_less_of_the_card_by_what_it_shares(said: dict[str, dict[str, Any]]) -> None:
    for name in ("shared", "second"):
        assert said[name]["shared"] > 0
        saved = said["alone"]["took"] - said[name]["took"]
        assert saved == pytest.approx(said[name]["shared"], rel=0.1)
        assert said[name]["took"] <= said[name]["bytes_of"]
    assert said["alone"]["shared"] == 0


def test_it_answers_to_the_token_like_one_with_weights_of_its_own(said: dict[str, dict[str, Any]]) -> None:
    assert said["answers"]["like_alone"]
    assert said["answers"]["second_like_alone"]
    assert not said["answers"]["like_base"]


def test_the_backbone_answers_as_before_when_one_has_ended(said: dict[str, dict[str, Any]]) -> None:
    assert said["stopped one"]["base_again"]
    assert said["stopped one"]["freed"] == pytest.approx(said["second"]["took"], rel=0.1)


def test_it_ends_with_the_backbones_process_and_nobody_else_does(said: dict[str, dict[str, Any]]) -> None:
    assert "ended unexpectedly" in said["killed"]["said"]
    assert said["killed"]["alone_goes_on"]
    assert said["end"]["taken"] == pytest.approx(0, abs=64 << 20)
