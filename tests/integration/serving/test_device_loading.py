"""vLLM's real model, built beside a backbone: only what the adapter touches is loaded, and every product is the same to the bit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import make_adapter
from safetensors.torch import save_file

from graftwork.backbone import default_path
from serving_service.engine.merged_protocol import MERGED_WEIGHTS

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from serving_service.engine.merge_child import merge

    root = tmp_path_factory.mktemp("beside")
    adapter = make_adapter(default_path(), root / "adapter", rank=8, seed=7)
    merge(default_path(), "d" * 64, adapter, root / "merged")
    for folder in ("nothing", "work"):
        (root / folder).mkdir()
    save_file({}, root / "nothing" / MERGED_WEIGHTS)
    program = str(Path(__file__).with_name("device_loading_program.py"))
    done = subprocess.run(
        [sys.executable, program, str(default_path()), str(root / "merged"), str(root / "work")],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_all_but_the_touched_matrices_are_the_backbones(said: dict[str, Any]) -> None:
    assert said["same"]
    assert not said["like_base"]
    assert said["shared"] == said["described"] - said["touched"]


def test_what_cannot_be_shared_is_loaded_whole(said: dict[str, Any]) -> None:
    for why in ("another backbone", "an owner that is gone", "other bytes"):
        assert said["tried"][why] == [0, True]
    shared, same = said["tried"]["some not exported"]
    assert same
    assert 0 < shared < said["shared"]


def test_the_backbones_memory_is_not_written(said: dict[str, Any]) -> None:
    assert said["intact"]
