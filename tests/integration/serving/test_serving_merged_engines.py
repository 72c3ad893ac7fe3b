"""An engine of merged weights answers like PEFT's merge and like the swapped adapter, in the frozen backbone's memory, and
dies with the service."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from merged_program import PROMPTS, TOKENS

from graftwork.backbone import default_path
from serving_service.vllm_plugin.shared_weights import PAGE
from tests.integration.serving.serving_world import make_adapter

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
RANK = 8


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(default_path(), tmp_path_factory.mktemp("merged") / "adapter", rank=RANK, seed=7)


def program(what: str, adapter: Path, work: Path) -> list[str]:
    return [
        sys.executable,
        str(Path(__file__).with_name("merged_program.py")),
        what,
        str(default_path()),
        str(adapter),
        str(work),
    ]


@pytest.fixture(scope="module")
def said(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = subprocess.run(
        program("answers", adapter, tmp_path_factory.mktemp("work")), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def peft_answers(adapter: Path) -> list[list[int]]:
    """Greedy tokens of PEFT's merge, its weights rounded to the checkpoint's dtype as ours are."""
    import torch
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.from_pretrained(default_path(), dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, adapter).merge_and_unload().to(torch.bfloat16).float().eval()
    model.generation_config.eos_token_id = None
    found = []
    for prompt in PROMPTS:
        out = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)
        found.append(out[0, len(prompt) :].tolist())
    return found


def test_it_answers_like_pefts_merge(adapter: Path, said: dict[str, Any]) -> None:
    assert said["merged"] == peft_answers(adapter)
    assert said["merged"] != said["base"]


def test_the_frozen_backbone_is_not_touched(said: dict[str, Any]) -> None:
    assert said["base"] == said["base_again"]
    assert said["maps"]["frozen"]["Anonymous"] == 0, "the backbone's engine has pages of its own in the shared file"


def test_only_pages_that_the_adapter_changes_are_its_own(said: dict[str, Any]) -> None:
    config = json.loads((default_path() / "config.json").read_text())
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    touched = layers * 2 * width * width * 4  # q_proj and v_proj in float32
    maps = said["maps"]["merged"]
    assert maps["Size"] >= said["published"], "some weights are not mapped"
    assert touched / 2 < maps["Anonymous"] <= touched + layers * 4 * PAGE
    # The embeddings' packed copy is never read: lm_head of this backbone is tied, and uses it; so all is there.
    assert maps["Rss"] - maps["Anonymous"] > 0.6 * said["published"]


def test_killing_the_service_leaves_no_engine(adapter: Path, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        program("killed", adapter, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    children = [psutil.Process(pid) for line in [last_line(parent)] for pid in json.loads(line)]
    assert len(children) == 2
    parent.kill()
    parent.wait(60)
    gone, alive = psutil.wait_procs(children, 60)
    assert not alive
    assert len(gone) == 2


def last_line(process: "subprocess.Popen[str]") -> str:
    """The first line that is JSON: vLLM prints others."""
    assert process.stdout is not None
    return next(line for line in process.stdout if line.startswith("["))
