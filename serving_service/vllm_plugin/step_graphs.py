"""Steps that bring a prompt as one CUDA graph, on a GPU, like those that only decode.

vLLM replays a step that only decodes as one graph (FULL), and one with a prompt in pieces, with attention started from Python between
them (PIECEWISE): 3.4 ms of a small model's 16 layers, where one graph is 0.02, and everybody else's token waits for it. Its mode FULL
has one set of graphs for both, and then decoding pays for attention that could take prompts. Here both are one graph, each with graphs
of its own, where the attention's kernels say that they can, and vLLM captures such a graph for a prompt as long as the step: captured for
single tokens, as 0.26 does, some kernels leave out the mask that hides later tokens.

Owns which graphs are captured besides vLLM's, and which step takes one. Capturing and replaying are vLLM's. Steps of more tokens than
`MOST_TOKENS` are in no graph: the device is at them for longer than Python, and graphs take time at start.
"""

import inspect
from dataclasses import replace
from typing import Any

MOST_TOKENS = 512
"""Of a step that is in a graph: what vLLM has by itself for many requests at once. For few it stops at two tokens a request, and the
prompts of two newcomers are more than that."""
_TOKENS = (1, 2, 4, *range(8, 32, 8), *range(32, 128, 16), *range(128, 256, 32), *range(256, MOST_TOKENS + 1, 64))
"""What a step is filled up with to the next of these costs the device little, each graph a moment at start."""


def sizes(max_num_seqs: int) -> list[int] | None:
    """Returns the numbers of tokens that graphs are captured for, ascending; a step takes the first that it fits in.

    Args:
        max_num_seqs: requests in a batch; up to so many tokens graphs are 8 apart, as vLLM's own, for steps that only decode, and a full
            batch has its own.

    Returns:
        None where vLLM's own reach as far.
    """
    if 2 * max_num_seqs >= MOST_TOKENS:
        return None
    return sorted({*_TOKENS, *range(8, max_num_seqs + 1, 8), max_num_seqs})


def add_mixed(manager: Any) -> None:
    """Has a manager of vLLM's capture small steps with prompts as one graph each, instead of in pieces, and take those.

    Args:
        manager: vLLM's `CudaGraphManager`, before it captures.
    """
    from vllm.config.compilation import CUDAGraphMode

    pieces = manager._capture_descs.get(CUDAGraphMode.PIECEWISE, [])
    whole = {
        desc: replace(desc, cg_mode=CUDAGraphMode.FULL, num_reqs=min(desc.num_tokens, manager.max_num_reqs))
        for desc in pieces
        if desc.num_tokens <= MOST_TOKENS
    }
    manager._capture_descs[CUDAGraphMode.PIECEWISE] = [desc for desc in pieces if desc not in whole]
    full = manager._capture_descs.setdefault(CUDAGraphMode.FULL, [])
    full += whole.values()
    full.sort(key=lambda desc: desc.num_tokens, reverse=True)  # the largest first: those after it fit into its memory
    for known in {id(one): one for one in manager._candidates.values()}.values():
        known[:] = [whole.get(desc, desc) for desc in known]


def install() -> None:
    """Makes vLLM's managers of CUDA graphs do so wherever all of a model's attention can be in graphs for any step."""
    from vllm.config.compilation import CompilationConfig, CUDAGraphMode
    from vllm.v1.attention.backend import AttentionCGSupport
    from vllm.v1.worker.gpu.cudagraph_utils import ModelCudaGraphManager, prepare_inputs_to_capture

    if "full_cudagraph" not in inspect.signature(prepare_inputs_to_capture).parameters:
        return
    resolve = CompilationConfig.resolve_cudagraph_mode_and_sizes
    init = ModelCudaGraphManager._init_candidates
    able = set[int]()

    def resolve_and_note(self: Any, min_cg_support: Any, *args: Any, **kwargs: Any) -> Any:
        if min_cg_support == AttentionCGSupport.ALWAYS:
            able.add(id(self))
        else:
            able.discard(id(self))
        return resolve(self, min_cg_support, *args, **kwargs)

    def init_with_mixed(self: Any) -> None:
        init(self)
        both = self.cudagraph_mode == CUDAGraphMode.FULL_AND_PIECEWISE and self.decode_query_len == 1
        if both and not self.use_breakable_cg and id(self.compilation_config) in able:
            add_mixed(self)

    CompilationConfig.resolve_cudagraph_mode_and_sizes = resolve_and_note
    ModelCudaGraphManager._init_candidates = init_with_mixed
