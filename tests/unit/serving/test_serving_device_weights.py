"""Weights of another process are used only when they are proved to be what would be loaded, and a model is built without them.

CPU memory stands for a GPU's: what opens a handle is passed in, and is CUDA's only in tests/gpu.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from serving_service.vllm_plugin import device_weights
from serving_service.vllm_plugin.device_weights import Opened, Unshareable, describe, open_weights, sample
from serving_service.vllm_plugin.owner import follow, identity
from serving_service.vllm_plugin.stand_ins import StandIns, give_memory, holes

ABOUT = {"checkpoint": "a", "device": "GPU-1", "version": ["1", "2"]}
BIG = (1024, 512)  # 2 MiB


class Backbone(nn.Module):
    """As vLLM has it when it takes adapters: the weight is one level deeper."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Module()
        self.proj.base_layer = nn.Linear(BIG[1], BIG[0], bias=False)
        self.norm = nn.LayerNorm(BIG[1])
        self.register_buffer("table", torch.randn(BIG))


class Exported:
    """Handles of this process's own memory."""

    def __init__(self) -> None:
        self.storages: list[torch.UntypedStorage] = []

    def export(self, tensor: torch.Tensor) -> list[Any]:
        self.storages.append(tensor.untyped_storage())
        return [len(self.storages) - 1]

    def open(self, handle: list[Any]) -> torch.UntypedStorage:
        return self.storages[handle[0]]


@pytest.fixture
def memory() -> Exported:
    return Exported()


def test_what_is_opened_is_the_owners_memory_under_the_name_without_lora(memory: Exported) -> None:
    model = Backbone()
    shared = describe(model, ABOUT, memory.export)
    assert set(shared["weights"]) == {"proj.weight", "table"}  # not the norm
    opened = open_weights(shared, ABOUT, memory.open)
    assert opened.has(["other", "proj.weight"], torch.empty(BIG)) == "proj.weight"
    mine = opened.get("proj.weight")
    assert mine.data_ptr() == model.proj.base_layer.weight.data_ptr()
    assert torch.equal(mine, model.proj.base_layer.weight)


def test_a_piece_of_a_larger_block_is_opened_at_its_place(memory: Exported) -> None:
    model = Backbone()
    block = torch.randn(3 * BIG[0], BIG[1])
    model.proj.base_layer.weight.data = block[BIG[0] : 2 * BIG[0]]
    opened = open_weights(describe(model, ABOUT, memory.export), ABOUT, memory.open)
    assert torch.equal(opened.get("proj.weight"), block[BIG[0] : 2 * BIG[0]])


@pytest.mark.parametrize("key", ABOUT)
def test_another_backbone_card_or_version_shares_nothing(memory: Exported, key: str) -> None:
    shared = describe(Backbone(), ABOUT, memory.export)
    with pytest.raises(Unshareable, match=key):
        open_weights(shared, {**ABOUT, key: "another"}, memory.open)
    with pytest.raises(Unshareable, match=key):
        open_weights(shared, {name: value for name, value in ABOUT.items() if name != key}, memory.open)


@pytest.mark.parametrize("like", [torch.empty(BIG[1], BIG[0]), torch.empty(BIG, dtype=torch.float16)])
def test_a_weight_of_another_layout_is_not_taken(memory: Exported, like: torch.Tensor) -> None:
    opened = open_weights(describe(Backbone(), ABOUT, memory.export), ABOUT, memory.open)
    assert opened.has(["proj.weight"], like) is None


def test_memory_that_holds_something_else_is_refused(memory: Exported) -> None:
    model = Backbone()
    opened = open_weights(describe(model, ABOUT, memory.export), ABOUT, memory.open)
    model.table += 1
    opened.get("proj.weight")
    with pytest.raises(Unshareable, match="table holds other bytes"):
        opened.get("table")


def test_memory_that_cannot_be_exported_or_opened_says_so(memory: Exported) -> None:
    def fails(_: Any) -> Any:
        raise RuntimeError("CUDA error: invalid argument\nmore of it")

    with pytest.raises(Unshareable, match=r"cannot be exported: CUDA error: invalid argument$"):
        describe(Backbone(), ABOUT, fails)
    opened = Opened(describe(Backbone(), ABOUT, memory.export), fails)
    with pytest.raises(Unshareable, match=r"cannot be opened: CUDA error: invalid argument$"):
        opened.get("table")


def test_a_sample_meets_every_part_of_a_tensor() -> None:
    tensor = torch.zeros(1 << 20, dtype=torch.bfloat16)
    before = sample(tensor)
    for start in range(0, tensor.numel(), tensor.numel() // 64):
        changed = tensor.clone()
        changed[start : start + 1024] = 1.0
        assert sample(changed) != before
    tensor[-1] = 1
    assert sample(tensor) != before


def test_a_checkpoint_is_known_by_its_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(4)}, tmp_path / "a.safetensors")
    first = device_weights.checkpoint_digest(tmp_path)
    assert device_weights.checkpoint_digest(tmp_path) == first
    save_file({"a": torch.ones(4)}, tmp_path / "a.safetensors")
    os.utime(tmp_path / "a.safetensors", ns=(1, 1))
    assert device_weights.checkpoint_digest(tmp_path) != first


def test_a_model_is_built_without_memory_for_its_large_weights() -> None:
    stand_ins = StandIns(1 << 20)
    with torch.device("cpu"), stand_ins:
        large = nn.Parameter(torch.empty(1 << 20, 1 << 20, dtype=torch.float16), requires_grad=False)  # 2 TiB
        small = torch.empty(8)
        table = torch.arange(1 << 20) * 2  # computed, so real
    assert stand_ins.is_one(large)
    assert large.shape == (1 << 20, 1 << 20)
    assert not stand_ins.is_one(small)
    assert not stand_ins.is_one(table)
    assert table[5] == 10
    # Whoever loads a piece of it by mistake hears so.
    with pytest.raises(RuntimeError, match="single memory location"):
        large.data[:2].copy_(torch.ones(2, 1 << 20))
    assert stand_ins.left() == 1
    large.data = torch.ones(2, 2, dtype=torch.float16)
    assert stand_ins.left() == 0


def test_what_stands_in_is_on_the_device_that_the_model_is_built_on() -> None:
    with torch.device("meta"), StandIns(1 << 20) as stand_ins:
        assert stand_ins.is_one(large := torch.empty(BIG))
        assert not stand_ins.is_one(elsewhere := torch.empty(8, device="cpu"))
    assert large.device.type == "meta"
    assert elsewhere.device.type == "cpu"


def test_what_was_not_loaded_is_seen() -> None:
    with StandIns(1 << 20) as stand_ins:
        weight = nn.Parameter(torch.empty(BIG), requires_grad=False)
    give_memory(weight)
    assert not stand_ins.is_one(weight)
    weight.data[1:].copy_(torch.ones(BIG[0] - 1, BIG[1]))
    assert holes(weight)
    weight.data[0].copy_(torch.ones(BIG[1]))
    assert not holes(weight)


_FOLLOWER = """
import sys
from serving_service.vllm_plugin.owner import follow
print(follow([int(sys.argv[1]), int(sys.argv[2])]), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_it_ends_with_the_owner_of_its_memory() -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    started = int(Path(f"/proc/{owner.pid}/stat").read_text().rpartition(")")[2].split()[19])
    with subprocess.Popen(
        [sys.executable, "-c", _FOLLOWER, str(owner.pid), str(started)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as follower:  # fmt: skip
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"True\n"
        assert follower.poll() is None
        owner.kill()
        owner.wait()
        assert follower.wait(30) == -signal.SIGKILL


def test_an_owner_that_is_gone_is_not_followed() -> None:
    pid, started = identity()
    assert not follow([pid, started + 1])  # its id is another one's by now
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not follow([gone.pid, started])
