"""As test_vllm_assumptions.py, of what only CPUs have: fails loudly when an upgrade moves what the plugin relies on there."""

import inspect

import pytest

pytestmark = pytest.mark.slow


def test_what_a_step_computes_its_matrices_with_on_a_cpu() -> None:
    """vllm_plugin/cpu_steps.py and worker.py"""
    import torch
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.model_executor.layers import utils
    from vllm.v1.worker.cpu_worker import CPUWorker

    made = inspect.getsource(utils)
    assert "handler = ops.create_onednn_mm(origin_weight.t(), 32)" in made
    assert "layer.cpu_linear = lambda x, weight, bias: ops.onednn_mm(handler, x, bias)" in made
    # Ours is the function below, which vLLM leaves as it is.
    assert "torch.set_num_threads = skip_set_num_threads" in inspect.getsource(CPUWorker)
    assert torch.set_num_threads is torch._C.set_num_threads
    # What has an adapter's ranks before it enters a slot.
    activate = inspect.getsource(LoRAModelManager.activate_adapter)
    assert "lora_model = self._registered_adapters[lora_id]" in activate
    assert "module.set_lora(" in activate


def test_what_the_short_ways_of_a_cpus_layers_leave_out() -> None:
    """vllm_plugin/cpu_linears.py, cpu_attention.py; test_serving_short_ways.py compares the answers."""
    import torch
    from vllm import _custom_ops as ops
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
    from vllm.lora.layers.row_parallel_linear import RowParallelLinearWithLoRA
    from vllm.model_executor.layers.attention import Attention
    from vllm.model_executor.layers.linear import ColumnParallelLinear, ReplicatedLinear, RowParallelLinear
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

    for layer in (ColumnParallelLinear, ReplicatedLinear, RowParallelLinear):
        way = inspect.getsource(layer.forward)
        assert "self.quant_method.apply(self, " in way
        assert "if not self.return_bias:" in way
    assert "self.apply(input_parallel, bias_)" in inspect.getsource(RowParallelLinearWithLoRA.forward)
    assert "self.punica_wrapper.add_lora_linear(" in inspect.getsource(BaseLinearLayerWithLoRA._apply_lora_to_output)
    # The kernels are called by position, with what vLLM's own way gives them.
    for name, own in (
        ("cpu_attn_reshape_and_cache", ops.cpu_attn_reshape_and_cache),
        ("cpu_attention_with_kv_cache", ops.cpu_attention_with_kv_cache),
    ):
        assert len(getattr(torch.ops._C, name).default._schema.arguments) == len(inspect.signature(own).parameters)
    whole = inspect.getsource(CPUAttentionBackendImpl.forward)
    given = whole[whole.index("ops.cpu_attention_with_kv_cache(") :]
    order = [given.index(f"            {part}") for part in (
        "query=", "key_cache=", "value_cache=", "output=", "query_start_loc=", "seq_lens=", "scale=", "causal=", "alibi_slopes=",
        "sliding_window=", "block_table=", "softcap=", "scheduler_metadata=", "s_aux=", "dynamic_causal=", "k_scale=", "v_scale=",
        "kv_cache_dtype=",
    )]  # fmt: skip
    assert order == sorted(order)
    assert "kv_cache.view((num_blocks, num_kv_heads, block_size * 2, -1))" in whole
    own = inspect.getsource(Attention.forward)
    assert "query.view(-1, self.num_heads, self.head_size)" in own
    assert "return output.view(-1, hidden_size)" in own


def test_how_weights_are_packed_on_a_cpu_and_where_they_lie() -> None:
    """vllm_plugin/packed_weights.py, shared_weights.py: oneDNN's copy is made once after loading, in a handler that the layer's
    product closes over; what is beside it stays a parameter. The layout itself is tried by test_vllm_shared_weights.py."""
    from vllm import _custom_ops
    from vllm.model_executor.layers import utils
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    packing = inspect.getsource(utils.dispatch_cpu_unquantized_gemm)
    assert "handler = ops.create_onednn_mm(origin_weight.t(), 32)" in packing
    assert "layer.cpu_linear = lambda x, weight, bias: ops.onednn_mm(handler, x, bias)" in packing
    for method in (UnquantizedLinearMethod, UnquantizedEmbeddingMethod):
        assert "dispatch_cpu_unquantized_gemm(layer, " in inspect.getsource(method.process_weights_after_loading)
    # Once a handler's matrix is elsewhere, this must not free it.
    assert "self.dtor(self.handler_tensor.item())" in inspect.getsource(_custom_ops.CPUDNNLGEMMHandler.__del__)


def test_what_leaving_a_step_takes_for_granted() -> None:
    """vllm_plugin/step_under_way.py, step_taken_back.py"""
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore, EngineCoreProc
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner
    from vllm.v1.worker.gpu_worker import Worker

    # Requests are read in a thread of their own, and then queued for the loop.
    taken_in = inspect.getsource(EngineCoreProc.process_input_sockets)
    assert "request = self.preprocess_add_request(req)" in taken_in
    assert taken_in.index("self.preprocess_add_request(") < taken_in.index("self.input_queue.put_nowait((request_type")
    # What a schedule counts, all of it before the step is computed.
    counted = inspect.getsource(Scheduler._update_after_schedule)
    assert counted.count("+= num_scheduled_token") == 2
    assert "self.coordinator.cache_blocks(" in inspect.getsource(KVCacheManager.allocate_slots)
    # Between the worker's books and the model nothing is kept of a step; what it ends with goes through unseen.
    run = inspect.getsource(GPUModelRunner.execute_model)
    assert (
        run.index("self._update_states(")
        < run.index("self._model_forward(")
        < run.index("self.execute_model_state = E")
    )
    assert "if isinstance(" in (ends := inspect.getsource(Worker.execute_model))
    assert "ModelRunnerOutput | AsyncModelRunnerOutput | NoneType" in ends
    # The loop samples only where the runner has returned nothing, and ends and aborts come after the runner.
    loop = inspect.getsource(EngineCore.step)
    assert "if model_output is None:" in loop
    assert (
        loop.index("future.result()") < loop.index("self._process_aborts_queue()") < loop.index("update_from_output(")
    )


def test_vllm_still_ends_a_cpu_engine_where_a_seeded_prompt_comes_in_pieces() -> None:
    """vllm_plugin/cpu_seeds.py; when this fails it may be needed no more."""
    import torch
    from vllm.v1.worker.gpu_input_batch import InputBatch
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    books = inspect.getsource(GPUModelRunner._bookkeeping_sync)
    assert "gen = self.input_batch.generators.get(int(i))" in books
    assert "gen.set_offset(gen.get_offset() - 4)" in books
    assert "self.discard_request_mask.np[:num_reqs]" in books
    assert "generators=self.generators" in inspect.getsource(InputBatch._make_sampling_metadata), "one and the same"
    with pytest.raises(RuntimeError, match="does not use offset"):
        torch.Generator().get_offset()
