"""The whole product as a user runs it: the `graft` command, a home folder, both services."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Graft:
    """Runs `graft` against one home folder."""

    home: Path

    def run(self, *arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
        return subprocess.run(
            [sys.executable, "-m", "graftwork.cli.main", "--home", str(self.home), *arguments],
            capture_output=True,
            text=True,
            env=clean | environment,
            timeout=timeout,
        )

    def json(self, *arguments: str, timeout: float = 300, **environment: str) -> Any:
        """Runs a command that must succeed; returns what it printed with --json."""
        done = self.run("--json", *arguments, timeout=timeout, **environment)
        assert done.returncode == 0, f"{arguments}: {done.stderr}\n{self.logs()}"
        return json.loads(done.stdout)

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.home.glob("logs/*.log"))
        )


@pytest.fixture
def graft(tmp_path: Path) -> Graft:
    return Graft(tmp_path / "home")


@pytest.fixture(scope="session")
def other_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of another architecture than the shipped one: a small Qwen2 with random weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from trainer_service.engine.pretrain.tokenizer import save_tokenizer, vocabulary

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("other-backbone")
    config = Qwen2Config(
        vocab_size=len(vocabulary()),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, other_backbone: Path) -> Iterator[Graft]:
    """Both services, up on the other backbone; stopped by `graft down`, which must leave nothing behind."""
    graft = Graft(tmp_path_factory.mktemp("line") / "home")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "graftwork.cli.main",
            "--home",
            str(graft.home),
            "up",
            "--backbone",
            str(other_backbone),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert graft.json("status", "--wait", "240")["console"]["ready"]
        yield graft
        graft.json("down")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a small data set whose every answer is the given word."""
    folder = tmp_path_factory.mktemp("rows")

    def write(answer: str) -> Path:
        path = folder / f"{answer}.jsonl"
        rows = [{"instruction": "say", "input": f"item {number}", "response": answer} for number in range(60)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write
