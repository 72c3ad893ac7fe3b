"""How the default backbone is made: the same data everywhere, answers that follow from prompts, a folder that loads."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer_service.engine.pretrain.curriculum import example
from trainer_service.engine.pretrain.data import encode, make_batch
from trainer_service.engine.pretrain.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()


@given(st.integers(0, 10**6), st.integers(0, 10**4))
def test_the_fast_encoding_is_the_tokenizers_own(step: int, index: int) -> None:
    item = example(7, step, index)
    ids, start = encode(item)
    turns = [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": item.answer}]
    text = TOKENIZER.apply_chat_template(turns, tokenize=False)
    assert ids.tolist() == TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids[start:-1].tolist()) == item.answer


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first, again, other = make_batch(7, 16, 3), make_batch(7, 16, 3), make_batch(7, 16, 4)
    assert np.array_equal(first.ids, again.ids)
    assert not np.array_equal(first.ids[:, :20], other.ids[:, :20])


@pytest.mark.slow
@pytest.mark.thorough
def test_the_command_builds_a_miniature_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "mini"
    shape = ["--layers", "1", "--width", "64", "--heads", "2", "--steps", "60", "--batch", "64", "--check-rows", "4"]
    command = [sys.executable, "-m", "graftwork.cli.main", "backbone", "build", "--out", str(out), *shape]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    card = json.loads((out / "backbone.json").read_text())
    assert card["figures"]["final_loss"] < 4.0, "log(102) = 4.6 is knowing nothing"
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model.config.num_hidden_layers == 1
    assert model(**tokenizer("hello", return_tensors="pt", return_token_type_ids=False)).logits.shape[-1] == len(
        tokenizer
    )
    again = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    assert "not empty" in again.stderr
