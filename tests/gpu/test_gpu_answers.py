"""On a GPU answers do not depend on how a step is started, nor on how an adapter got there."""

import json
import subprocess
import sys
from typing import Any

import pytest

from serving_service.vllm_plugin.step_graphs import MOST_TOKENS

MODULE = "tests.gpu.answers_program"
NEAR = 0.15
"""Of a log-probability in bfloat16, where a step is filled up to another size: a matrix product then takes its sums in another order."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("answers")
    done = subprocess.run(
        [sys.executable, "-m", MODULE, str(folder)], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"stage')]


def test_a_step_with_prompts_answers_the_same_as_one_graph(said: list[dict[str, Any]]) -> None:
    stages = {one["stage"]: one for one in said}
    taken = stages["graphs"]["taken"]
    assert taken[0] <= 8
    assert taken[-1] == MOST_TOKENS
    assert len(taken) > 10
    assert not stages["none"]["taken"]
    for name in ("alone", "together", "beside", "together beside"):
        for graph, without in zip(stages["graphs"][name], stages["none"][name], strict=True):
            assert graph["tokens"] == without["tokens"]
            assert graph["prompt"] == pytest.approx(without["prompt"], abs=NEAR)
            shared = graph["first"].keys() & without["first"].keys()
            assert shared
            assert [graph["first"][one] for one in shared] == pytest.approx(
                [without["first"][one] for one in shared], abs=NEAR
            )


def test_an_adapter_answers_the_same_staged_and_loaded_by_vllm(said: list[dict[str, Any]]) -> None:
    loads = [one for one in said if one["stage"] == "loads"]
    assert len(loads) == 4
    for load in loads:
        assert load["staged"]["tokens"] == load["stock"]["tokens"]
        assert load["staged"]["prompt"] == pytest.approx(load["stock"]["prompt"], abs=NEAR)
    for number, load in enumerate(loads):
        for other in loads[number + 1 :]:
            assert load["staged"]["tokens"] != other["staged"]["tokens"], "else any answer would do"
