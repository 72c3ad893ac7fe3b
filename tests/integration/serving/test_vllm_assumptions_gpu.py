"""As test_vllm_assumptions.py, of what is done on a GPU only: arithmetic, slots, graphs and the reading of adapters."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow


def test_what_the_arithmetic_for_gpus_replaces_and_where_slots_lie() -> None:
    """vllm_plugin/dense_punica.py and worker.py; the arithmetic itself runs in tests/gpu."""
    from vllm.config import vllm as settings_of_vllm
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
    from vllm.lora.layers.column_parallel_linear import (
        ColumnParallelLinearWithLoRA,
        MergedColumnParallelLinearWithLoRA,
        MergedQKVParallelLinearWithLoRA,
    )
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU
    from vllm.model_executor.models.llama import LlamaAttention

    from serving_service.vllm_plugin.dense_punica import DensePunicaGPU

    for name in ("update_metadata", "add_lora_linear"):
        stock = list(inspect.signature(getattr(PunicaWrapperGPU, name)).parameters)
        ours = list(inspect.signature(getattr(DensePunicaGPU, name)).parameters)
        assert [one for one in stock if one != "buffer"] == ours
    assert "self._create_lora_modules()" in inspect.getsource(LoRAModelManager.__init__)
    assert "new_module.set_mapping(punica_wrapper)" in inspect.getsource(LoRAModelManager._create_lora_modules)
    # Importing it needs CUDA's own library.
    cuda = (Path(inspect.getfile(PunicaWrapperGPU)).parents[2] / "platforms" / "cuda.py").read_text()
    assert 'return "vllm.lora.punica_wrapper.punica_gpu.PunicaWrapperGPU"' in cuda
    assert "def get_punica_wrapper(cls) -> str:" in cuda
    # Slots are written slice by slice through the stacked tensors, which we lay out anew and which keep their shapes.
    shapes = inspect.getsource(MergedColumnParallelLinearWithLoRA.create_lora_weights)
    assert (
        "max_loras,\n                1,\n                output_size,\n                lora_config.max_lora_rank"
        in shapes
    )
    for writes in (BaseLinearLayerWithLoRA.set_lora, MergedColumnParallelLinearWithLoRA.set_lora):
        assert ".copy_(" in inspect.getsource(writes)
    # vllm_plugin/dense_joined.py: q, k and v come out of `apply`, and what follows cuts them into views.
    applies = inspect.getsource(BaseLinearLayerWithLoRA._apply_sync)
    assert "self._get_quant_method().apply(self.base_layer, x, bias)" in applies
    assert "self.apply(input_, bias)" in inspect.getsource(ColumnParallelLinearWithLoRA.forward)
    own = inspect.getsource(MergedQKVParallelLinearWithLoRA)
    assert "def apply" not in own
    assert "def forward" not in own
    assert "qkv.split([" in inspect.getsource(LlamaAttention.forward)
    # A kernel for all three at once would want rows without gaps; it is off for CUDA.
    assert '"enable_qk_norm_rope_fusion": True' not in inspect.getsource(settings_of_vllm)
    # Where a module has slots at all, and that its parts may be named by themselves.
    from vllm.lora.utils import is_in_target_modules

    packed = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
    assert is_in_target_modules("layers.0.qkv_proj", ["v_proj"], packed)
    assert not is_in_target_modules("layers.0.o_proj", ["v_proj"], packed)


def test_what_vllms_kernels_of_adapters_do_when_told_of_none() -> None:
    """vllm_plugin/dense_punica.py leaves their preparation out."""
    from vllm.lora.layers.vocab_parallel_embedding import VocabParallelEmbeddingWithLoRA
    from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

    kernels = Path(inspect.getfile(PunicaWrapperGPU)).parents[1] / "ops" / "triton_ops"
    for name in ("lora_expand_op.py", "lora_shrink_op.py"):
        text = (kernels / name).read_text()
        assert "if no_lora_flag_cpu.item():" in text, "where they are started"
        kernels_in = text.count("@triton.jit")
        leaves = re.findall(r"if lora_id == -1:\n(?: +#.*\n)? +return", text)
        assert len(leaves) == text.count("lora_id = tl.load(lora_ids + lora_idx)") == kernels_in > 0, "in a graph"
    experts = (kernels / "fused_moe_lora_op.py").read_text()
    reads = re.findall(r"tl\.load\(token_lora_mapping_ptr \+ .*\)", experts)
    leaves = (r"if lora_id == -1:\n +return", r"if lora_id < 0:\n +return", r"valid = \(lora_id >= 0\) &")
    assert len(reads) == sum(len(re.findall(leave, experts)) for leave in leaves), "of experts, by a row's slot"
    assert "_embeddings_indices[:num_tokens]" in inspect.getsource(VocabParallelEmbeddingWithLoRA.forward)


def test_which_graphs_are_captured_and_what_one_for_any_step_is_captured_with() -> None:
    """vllm_plugin/step_graphs.py; which step gets which is in tests/unit."""
    from vllm.config.compilation import CompilationConfig
    from vllm.v1.worker.gpu import cudagraph_utils, model_runner

    parameters = list(inspect.signature(CompilationConfig.resolve_cudagraph_mode_and_sizes).parameters)
    assert parameters[:2] == ["self", "min_cg_support"]
    made = inspect.getsource(model_runner.GPUModelRunner)
    asks, makes = (
        made.index(text)
        for text in (
            "self.compilation_config.resolve_cudagraph_mode_and_sizes(\n            attn_cg_support.min_cg_support,",
            "self.cudagraph_manager = ModelCudaGraphManager(",
        )
    )
    assert asks < makes, "what the attention can do is known before graphs are chosen"
    init = inspect.getsource(cudagraph_utils.CudaGraphManager.__init__)
    assert "self.compilation_config = vllm_config.compilation_config" in init
    assert "self._init_candidates()" in init
    captured = inspect.getsource(cudagraph_utils.CudaGraphManager.capture)
    assert "for mode in [CUDAGraphMode.PIECEWISE, CUDAGraphMode.FULL]:" in captured
    assert "descs = self._capture_descs[mode]" in captured
    inputs = inspect.getsource(cudagraph_utils.prepare_inputs_to_capture)
    assert "if full_cudagraph and max_query_len is None:" in inputs
    assert "max_query_len = num_tokens" in inputs


@pytest.fixture
def whole_files(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes vLLM's loader read adapters as on a GPU, for this test."""
    from vllm.lora import lora_model

    from serving_service.vllm_plugin import whole_file

    kept = lora_model.safetensors, inspect.getattr_static(lora_model.LoRAModel, "from_lora_tensors")
    yield whole_file.install
    lora_model.safetensors, lora_model.LoRAModel.from_lora_tensors = kept


def test_vllms_loader_of_adapters_gets_the_same_from_a_file_read_in_one_piece(whole_files: Any, tmp_path: Path) -> None:
    """vllm_plugin/whole_file.py"""
    from safetensors.torch import save_file
    from vllm.lora import lora_model
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    assert re.findall(r"\bsafetensors\.\w+\(.*?\)", inspect.getsource(lora_model)) == [
        'safetensors.safe_open(lora_tensor_path, framework="pt")'
    ]
    torch.manual_seed(0)
    made = {
        f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_{side}.weight": torch.randn(shape)
        for layer in range(2)
        for name in ("q_proj", "v_proj")
        for side, shape in (("A", (4, 8)), ("B", (8, 4)))
    }
    save_file(made, tmp_path / "adapter_model.safetensors")
    helper = PEFTHelper(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])

    def load() -> dict[str, Any]:
        expected = {"q_proj", "v_proj"}
        made = LoRAModel.from_local_checkpoint(
            str(tmp_path), expected, helper, lora_model_id=1, device="cpu", dtype=torch.bfloat16
        )
        return dict(made.loras)

    stock = load()
    whole_files(torch.bfloat16)
    ours = load()
    assert ours.keys() == stock.keys()
    for name, layer in stock.items():
        assert (ours[name].rank, ours[name].scaling) == (layer.rank, layer.scaling)
        for side in ("lora_a", "lora_b"):
            found = getattr(ours[name], side)
            assert found.dtype is torch.bfloat16
            assert torch.equal(found, getattr(layer, side))
    with pytest.raises(ValueError, match="expected target modules"):
        LoRAModel.from_local_checkpoint(str(tmp_path), {"q_proj"}, helper, lora_model_id=1, device="cpu")
