"""What an engine of merged weights takes on a GPU counts whole fused matrices, and comes out of the service's share of the card."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from serving_service.engine.merged_cost import own_weights
from serving_service.engine.merged_protocol import MERGED_WEIGHTS
from serving_service.engine.protocol import EngineUnavailable
from serving_service.engine.vllm_launch import backbone_share
from serving_service.settings import ServingSettings

MIB = 1 << 20
AT = "model.layers.0"


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    sizes = {"self_attn.q_proj": 8, "self_attn.k_proj": 2, "self_attn.v_proj": 2, "self_attn.o_proj": 8,
             "mlp.gate_proj": 16, "mlp.up_proj": 16, "mlp.down_proj": 16}  # fmt: skip
    tensors = {f"{AT}.{name}.weight": torch.zeros(size * MIB, dtype=torch.uint8) for name, size in sizes.items()}
    folder = tmp_path / "backbone"
    folder.mkdir()
    save_file(tensors, folder / "a.safetensors")
    save_file({f"{AT}.input_layernorm.weight": torch.zeros(4096, dtype=torch.uint8)}, folder / "b.safetensors")
    return folder


@pytest.mark.parametrize(
    ("touched", "own"),
    [
        (("self_attn.q_proj", "self_attn.v_proj"), 12),
        (("self_attn.v_proj",), 12),
        (("self_attn.o_proj",), 8),
        (("mlp.up_proj", "mlp.down_proj"), 48),
        ((), 0),
    ],
)
def test_what_is_fused_with_a_touched_matrix_is_its_own(
    backbone: Path, tmp_path: Path, touched: tuple[str, ...], own: int
) -> None:
    merged = {f"{AT}.{name}.weight": torch.zeros(1) for name in touched}
    save_file(merged, tmp_path / MERGED_WEIGHTS)
    assert own_weights(backbone, tmp_path) == own * MIB + 4096


def settings(share: float, budget: int) -> ServingSettings:
    return ServingSettings(
        store_url="file:///nowhere", operator_key_file=Path("key"), cache_dir=Path("cache"),
        gpu_memory_utilization=share, merged_budget_bytes=budget,
    )  # fmt: skip


def test_merged_engines_come_out_of_the_services_share_of_a_gpu() -> None:
    assert backbone_share(settings(0.9, 0), 80 << 30) == pytest.approx(0.9)
    assert backbone_share(settings(0.9, 8 << 30), 80 << 30) == pytest.approx(0.8)
    with pytest.raises(EngineUnavailable, match="GRAFT_SERVING_MERGED_BUDGET_BYTES"):
        backbone_share(settings(0.5, 40 << 30), 80 << 30)
