"""A small step with a prompt is one graph, one that only decodes keeps vLLM's own, and whatever is not captured is not chosen."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vllm.config.compilation import CompilationConfig, CUDAGraphMode
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.worker.gpu import cudagraph_utils
from vllm.v1.worker.gpu.cudagraph_utils import ModelCudaGraphManager

from serving_service.vllm_plugin import step_graphs

SIZES = [1, 2, 4, 8, 16, 24, 32, 64, 72, 128]
CASES = [0, 5]


def manager(most_requests: int, sizes: list[int], mode: CUDAGraphMode = CUDAGraphMode.FULL_AND_PIECEWISE) -> Any:
    """vLLM's, without a device: what it would capture, and choose then."""
    made = ModelCudaGraphManager.__new__(ModelCudaGraphManager)
    made.compilation_config = SimpleNamespace(
        cudagraph_capture_sizes=sizes, max_cudagraph_capture_size=max(sizes, default=0)
    )
    made.vllm_config = SimpleNamespace(
        speculative_config=None, cache_config=SimpleNamespace(use_kda_recoverssm=False), num_speculative_tokens=0
    )
    made.max_num_reqs, made.cudagraph_mode, made.decode_query_len = most_requests, mode, 1
    made.varlen_decode, made.ubatch_runner, made.use_breakable_cg = False, None, False
    made.lora_capture_cases = CASES
    made._lora_dispatch_map, made._max_lora_case = made._build_lora_dispatch_map()
    made._candidates, made._capture_descs, made._graphs_captured = {}, {}, True
    made._init_candidates()
    return made


@given(
    most_requests=st.integers(1, 40),
    sizes=st.lists(st.sampled_from(SIZES), min_size=1, unique=True),
    prompts=st.lists(st.integers(1, 90), min_size=1, max_size=40),
    loras=st.integers(0, 4),
)
def test_which_graph_a_step_gets(most_requests: int, sizes: list[int], prompts: list[int], loras: int) -> None:
    prompts = prompts[:most_requests]
    stock, ours = manager(most_requests, sizes), manager(most_requests, sizes)
    step_graphs.add_mixed(ours)
    tokens = sum(prompts)
    uniform = prompts[0] if len(set(prompts)) == 1 else None
    asked = (len(prompts), tokens, uniform, loras)
    theirs, found = stock.dispatch(*asked), ours.dispatch(*asked)
    if theirs.cg_mode is CUDAGraphMode.PIECEWISE and theirs.num_tokens <= step_graphs.MOST_TOKENS:
        assert found.cg_mode is CUDAGraphMode.FULL
        assert found.uniform_token_count is None
        assert found.num_reqs >= len(prompts)
        assert (found.num_tokens, found.num_active_loras) == (theirs.num_tokens, theirs.num_active_loras)
    else:
        assert found == theirs
    assert found.cg_mode is CUDAGraphMode.NONE or found in ours._capture_descs[found.cg_mode]


@given(
    most_requests=st.integers(1, 255),
    prompts=st.lists(st.integers(1, 90), min_size=1, max_size=255),
    loras=st.sampled_from(CASES),
)
@example(most_requests=100, prompts=[1] * 100, loras=0)
@example(most_requests=5, prompts=[1] * 5, loras=0)
def test_a_step_of_up_to_512_tokens_is_in_a_graph_that_is_not_much_larger(
    most_requests: int, prompts: list[int], loras: int
) -> None:
    assert step_graphs.sizes(256) is None, "vLLM's own reach as far"
    sizes = step_graphs.sizes(most_requests)
    assert sizes is not None
    ours = manager(most_requests, sizes)
    step_graphs.add_mixed(ours)
    prompts = prompts[:most_requests]
    tokens, longest = sum(prompts), max(prompts)
    uniform = longest if len(set(prompts)) == 1 else None
    found = ours.dispatch(len(prompts), tokens, uniform, loras)
    assert (found.cg_mode is CUDAGraphMode.FULL) is (tokens <= step_graphs.MOST_TOKENS)
    if longest == 1:
        assert found.uniform_token_count == 1, "a graph that is for decoding only"
        assert found.num_tokens < tokens + 8
    elif tokens <= step_graphs.MOST_TOKENS:
        assert found.num_tokens <= max(tokens + 15, 1.25 * tokens)


@pytest.mark.parametrize("sizes", [SIZES, [72, 128], [1, 2]])
def test_as_many_graphs_are_captured_as_before_and_the_largest_first(sizes: list[int]) -> None:
    stock, ours = manager(16, sizes), manager(16, sizes)
    step_graphs.add_mixed(ours)

    def count(made: Any) -> int:
        return sum(len(descs) for descs in made._capture_descs.values())

    assert count(ours) == count(stock)
    for descs in ours._capture_descs.values():
        assert len(set(descs)) == len(descs)
        assert [desc.num_tokens for desc in descs] == sorted((desc.num_tokens for desc in descs), reverse=True)


@pytest.mark.parametrize(
    ("support", "mode", "breakable", "mixed"),
    [
        (AttentionCGSupport.ALWAYS, CUDAGraphMode.FULL_AND_PIECEWISE, False, True),
        (AttentionCGSupport.UNIFORM_BATCH, CUDAGraphMode.FULL_AND_PIECEWISE, False, False),
        (AttentionCGSupport.ALWAYS, CUDAGraphMode.FULL_DECODE_ONLY, False, False),
        (AttentionCGSupport.ALWAYS, CUDAGraphMode.FULL_AND_PIECEWISE, True, False),
    ],
)
def test_only_where_the_attention_can_be_in_a_graph_for_any_step(
    monkeypatch: pytest.MonkeyPatch, support: Any, mode: CUDAGraphMode, breakable: bool, mixed: bool
) -> None:
    monkeypatch.setattr(CompilationConfig, "resolve_cudagraph_mode_and_sizes", lambda self, *_: mode)
    before = ModelCudaGraphManager._init_candidates
    monkeypatch.setattr(ModelCudaGraphManager, "_init_candidates", before)
    stock = manager(16, SIZES, mode)
    with monkeypatch.context() as older:
        older.setattr(cudagraph_utils, "prepare_inputs_to_capture", lambda num_reqs: None)
        step_graphs.install()
    assert ModelCudaGraphManager._init_candidates is before, "it would be captured for single tokens"
    step_graphs.install()
    ours = manager(16, SIZES, mode)
    assert ours._capture_descs == stock._capture_descs, "nobody has said what the attention can do"
    CompilationConfig.resolve_cudagraph_mode_and_sizes(ours.compilation_config, support, "some")  # type: ignore[arg-type]
    ours.use_breakable_cg = breakable
    ours._candidates, ours._capture_descs = {}, {}
    ours._init_candidates()
    assert (ours._capture_descs != stock._capture_descs) is mixed
