"""A layer's short way on a CPU computes what vLLM's own way does, to the bit, whoever shares the step."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graftwork.backbone import default_path
from tests.integration.serving.serving_world import make_adapter

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("short")
    adapters = [make_adapter(default_path(), root / f"a{seed}", rank=8 * seed, seed=seed) for seed in (1, 2)]
    program = str(Path(__file__).with_name("short_ways_program.py"))
    done = subprocess.run(
        [sys.executable, program, str(default_path()), *map(str, adapters), str(root)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_every_layer_of_the_backbone_has_its_short_way(said: dict[str, Any]) -> None:
    counts = said["counts"]
    assert counts["linears"] == counts["linears of the model"] > 0
    assert counts["attentions"] == counts["attentions of the model"] > 0


def test_answers_are_the_same_to_the_bit(said: dict[str, Any]) -> None:
    assert len(said["usual"]) == 5
    assert said["usual"][1] != said["usual"][0], "the adapters do something"
    assert said["again"] == said["usual"]


def test_a_kernel_for_few_rows_answers_as_onednn_does(said: dict[str, Any]) -> None:
    counts = said["counts"]
    assert counts["few"] == counts["matrices"], "0 where the processor is not one that it is for"
    for ours, theirs in zip(said["few"], said["usual"], strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert [token for token, _ in mine] == [token for token, _ in other]
            assert [score for _, score in mine] == pytest.approx([score for _, score in other], abs=1e-3)
