"""What we rely on inside vLLM and the standard library. A failure here means: an upgrade moved it, read the named file."""

import inspect
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_lora_requests_compare_by_name_and_the_prefix_cache_keys_by_name_and_path() -> None:
    """engine/held_adapters.py: names carry the digest, ids are never used again."""
    from vllm.lora.request import LoRARequest
    from vllm.v1.core import kv_cache_utils

    assert LoRARequest("a", 1, "/x") == LoRARequest("a", 2, "/y")
    assert '("lora", lora_request.lora_name, lora_request.lora_path)' in inspect.getsource(
        kv_cache_utils._gen_lora_extra_hash_keys
    )


def test_signatures_of_the_calls_we_make() -> None:
    """engine/vllm_engine.py"""
    from vllm.inputs.engine import tokens_input
    from vllm.v1.engine.async_llm import AsyncLLM

    assert {"prompt", "sampling_params", "request_id", "lora_request", "trace_headers", "priority"} <= set(
        inspect.signature(AsyncLLM.generate).parameters
    )
    assert "args" in inspect.signature(AsyncLLM.collective_rpc).parameters
    assert "timeout" in inspect.signature(AsyncLLM.shutdown).parameters
    assert tokens_input([1], cache_salt="t") == {"type": "token", "prompt_token_ids": [1], "cache_salt": "t"}


def test_what_a_request_is_spared() -> None:
    """engine/vllm_engine.py: a deep copy of its parameters, and asking transformers for the end token's number."""
    from vllm.renderers.base import BaseRenderer
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.input_processor import InputProcessor

    params = SamplingParams(stop=["a"])
    assert params.clone().stop is not params.stop
    params.skip_clone = True
    assert params.clone() is not params
    assert params.clone().stop is params.stop
    assert "self.renderer.get_eos_token_id()" in inspect.getsource(InputProcessor)
    assert "self.renderer = renderer = " in inspect.getsource(AsyncLLM.__init__)
    assert "InputProcessor(self.vllm_config, renderer)" in inspect.getsource(AsyncLLM.__init__)
    assert "return self.tokenizer.eos_token_id" in inspect.getsource(BaseRenderer.get_eos_token_id)


def test_what_an_output_of_a_step_can_carry() -> None:
    """engine/output_bundles.py: tokens can be told together, and whatever else there is comes with the first or the last, or is looked at;
    and whose output it is can be found out."""
    import msgspec
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import OutputProcessor, RequestState

    looked_at = {"finish_reason", "new_logprobs", "events", "new_prompt_logprobs_tensors"}
    first_or_last = {
        "stop_reason",
        "prefill_stats",
        "spec_decode_metrics",
        "prompt_token_id_logprobs",
        "mm_cache_miss_hashes",
    }
    # For pooling models, transfers between engines, images, masks and routers that are asked for: nothing of that is used here.
    unused = {
        "pooling_output", "kv_transfer_params", "ec_transfer_params", "routed_experts", "num_nans_in_logits", "new_sampling_mask",
    }  # fmt: skip
    same_in_all = {"request_id", "trace_headers"}
    fields = {field.name for field in msgspec.structs.fields(EngineCoreOutput)}
    assert fields == {"new_token_ids"} | same_in_all | looked_at | first_or_last | unused
    assert "self.request_states[request_id] = req_state" in inspect.getsource(OutputProcessor.add_request)
    assert "self.external_req_id = external_req_id" in inspect.getsource(RequestState.__init__)
    handler = inspect.getsource(AsyncLLM._run_output_handler)
    assert "outputs = await engine_core.get_output_async()" in handler
    assert "range(0, num_outputs, chunk_size)" in handler, "a step without outputs is none"


def test_what_the_scheduler_with_turns_hides_from_vllm_and_what_vllm_makes_of_it() -> None:
    """vllm_plugin/slot_scheduler.py and worker.py"""
    from collections import deque

    from vllm.config.scheduler import SchedulerConfig
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
    from vllm.v1.core.sched.request_queue import FCFSRequestQueue
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    # What begins is bounded by `max_num_active_reqs` and comes from `waiting`, a deque in order of arrival.
    step = inspect.getsource(Scheduler.schedule)
    assert "num_running >= self.max_num_active_reqs" in step
    assert "request_queue = self.waiting" in step
    assert "request = self.running[req_index]" in step
    assert issubclass(FCFSRequestQueue, deque)
    assert SchedulerConfig.__dataclass_fields__["policy"].default == "fcfs"
    # Who is pushed out: the last that runs, to the front of those that wait.
    assert "preempted_req = self.running.pop()" in step
    assert "self.waiting.prepend_request(request)" in inspect.getsource(Scheduler._preempt_request)
    # Between steps all lists are whole, so these may assume it: ends and aborts.
    for whole in (Scheduler.update_from_output, Scheduler.finish_requests):
        assert "self.running = remove_all(self.running" in inspect.getsource(whole)
    # A request that a step leaves out keeps its state, and its tokens are sent again when it is back.
    states = inspect.getsource(GPUModelRunner._update_states)
    assert "unscheduled_req_ids = cached_req_ids - (scheduled_req_ids - resumed_req_ids)" in states
    assert "reqs_to_add.append(req_state)" in states
    assert "req_id not in self.prev_step_scheduled_req_ids" in inspect.getsource(Scheduler._make_cached_request_data)
    # Grammars mask what is in the step only.
    assert "for req_id in scheduler_output.num_scheduled_tokens" in inspect.getsource(Scheduler.get_grammar_bitmask)
    # A step's tokens and a prompt's part of them are read anew in each step; priorities are only looked at by another policy.
    assert "token_budget = self.max_num_scheduled_tokens" in step
    assert "self.scheduler_config.long_prefill_token_threshold" in step
    assert step.count(".priority") == step.count("key=lambda r: (r.priority, r.arrival_time)") == 1
    assert "if self.policy == SchedulingPolicy.PRIORITY:" in step
    # A factory does for a class.
    made = inspect.getsource(EngineCore.__init__)
    assert "get_scheduler_cls()" in made
    assert "Scheduler(\n            vllm_config=vllm_config," in made
    # Every step touches what it computes with, in any order, and evicts what was touched longest ago.
    assert "for lora in loras_map.values():" in inspect.getsource(LRUCacheWorkerLoRAManager._apply_adapters)


def test_spawned_children_start_with_our_prelude() -> None:
    """engine/lifeline.py: multiprocessing builds its command through `spawn.get_command_line`, with the program after -c."""
    import multiprocessing.popen_spawn_posix
    import multiprocessing.spawn

    from serving_service.engine.lifeline import children_die_with_us

    assert "spawn.get_command_line(" in inspect.getsource(multiprocessing.popen_spawn_posix)
    plain = multiprocessing.spawn.get_command_line
    with children_die_with_us():
        command = multiprocessing.spawn.get_command_line(pipe_handle=3)
    assert "prctl(1, 9)" in command[command.index("-c") + 1]
    assert multiprocessing.spawn.get_command_line is plain


def test_every_field_of_vllms_requests_is_honoured_or_refused() -> None:
    """api/http/fields.py: what vLLM learns to take must not get through unseen, nor be dropped without a word."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    from serving_service.api.http.fields import HONOURED, REFUSED
    from serving_service.engine.openai_protocol import Kind

    for kind, model in ((Kind.CHAT, ChatCompletionRequest), (Kind.COMPLETION, CompletionRequest)):
        fields = set(model.model_fields)
        assert fields - HONOURED[kind] - REFUSED.keys() == {"user"}
        assert HONOURED[kind] <= fields


def test_handlers_use_of_the_engine_what_the_tap_has() -> None:
    """engine/openai_tap.py, openai_serving.py"""
    import re

    from vllm.entrypoints.generate.base.serving import GenerateBaseServing
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

    from serving_service.engine.openai_tap import Tap

    used = set()
    for handler in (GenerateBaseServing, OpenAIServingChat, OpenAIServingCompletion):
        used |= set(re.findall(r"self\.engine_client\.(\w+)", inspect.getsource(handler)))
    # The last is for disaggregated prefill, which no request can ask for.
    assert {name for name in used if not hasattr(Tap, name)} == {"notify_kv_transfer_request_rejected"}
    assert "request.model in self.models.lora_requests" in inspect.getsource(GenerateBaseServing._maybe_get_adapters)
    assert "except GenerationError as e:" in inspect.getsource(OpenAIServingChat.chat_completion_stream_generator)


def test_log_probabilities_compile_nothing_on_a_cpu() -> None:
    """engine/vllm_launch.py: without TORCHDYNAMO_DISABLE the first request for them would stop all others."""
    from vllm.v1.sample.ops import logprobs

    assert "@torch.compile" in inspect.getsource(logprobs)


def test_how_a_model_is_built_beside_another_engines_weights() -> None:
    """vllm_plugin/device_loading.py, stand_ins.py, device_weights.py; tests/gpu runs it, test_device_loading.py all but CUDA's part."""
    from vllm.config.compilation import CompilationConfig
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
    from vllm.model_executor.models.llama import LlamaForCausalLM
    from vllm.model_executor.models.utils import WeightsMapper
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    # Large weights come from torch.empty and nothing else, and what happens to them after loading leaves them where they are.
    for method in (UnquantizedLinearMethod, UnquantizedEmbeddingMethod):
        assert "torch.empty(\n                sum(output_partition_sizes)" in inspect.getsource(method.create_weights)
        after = inspect.getsource(method.process_weights_after_loading)
        assert "current_platform.is_cpu()" in after
        assert "is_cuda" not in after
    # The order that ours keeps to.
    stock = inspect.getsource(BaseModelLoader.load_model)
    order = [
        stock.index(part) for part in ("with target_device:", "self.load_weights(", "process_weights_after_loading(")
    ]
    assert order == sorted(order)
    assert {"static_forward_context", "static_all_moe_layers"} <= set(CompilationConfig.__dataclass_fields__)
    files = list(inspect.signature(DefaultModelLoader._prepare_weights).parameters)
    assert files[:4] == ["self", "model_name_or_path", "subfolder", "revision"]
    assert WeightsMapper(orig_to_new_prefix={"a.": "b."})._map_name("a.c") == "b.c"
    assert LlamaForCausalLM.packed_modules_mapping["qkv_proj"] == ["q_proj", "k_proj", "v_proj"]
    assert "get_model" in vars(GPUModelRunner)
    # A cache of a given size is taken at its word: no profile that another engine on the card would upset.
    worker = (Path(inspect.getfile(GPUModelRunner)).parent / "gpu_worker.py").read_text()
    assert "if kv_cache_memory_bytes := self.cache_config.kv_cache_memory_bytes:" in worker


def test_how_merged_tensors_get_into_vllms_loader() -> None:
    """vllm_plugin/merged_loader.py, merged_worker.py"""
    from vllm.config.load import LoadConfig
    from vllm.model_executor.model_loader import get_model_loader
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    # The extension is imported before the model is loaded, so that the format is known by then.
    assert "worker_extension_cls" in inspect.getsource(WorkerWrapperBase.init_worker)
    assert "self.get_all_weights(" in inspect.getsource(DefaultModelLoader.load_weights)
    assert list(inspect.signature(BaseModelLoader.load_model).parameters) == [
        "self",
        "vllm_config",
        "model_config",
        "prefix",
    ]
    import serving_service.vllm_plugin.merged_worker

    assert serving_service.vllm_plugin.merged_worker.MergedWorkerExtension
    extra = {"folder": "/nowhere", "shared": []}
    made = get_model_loader(LoadConfig(load_format="graft_merged", model_loader_extra_config=extra))
    assert type(made).__name__ == "MergedLoader"


def test_outputs_of_a_step_are_pulled_from_the_client_and_told_in_their_order() -> None:
    """engine/output_order.py"""
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import OutputProcessor, RequestState

    handler = inspect.getsource(AsyncLLM._run_output_handler)
    assert "outputs = await engine_core.get_output_async()" in handler
    assert "engine_core_outputs = outputs.outputs" in handler
    told = inspect.getsource(OutputProcessor.process_outputs)
    assert "for engine_core_output in engine_core_outputs:" in told
    assert "req_state.is_prefilling = False" in told
    assert "self.is_prefilling = True" in inspect.getsource(RequestState.__init__)
