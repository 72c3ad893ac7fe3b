"""Which of a step's outputs are handled first: those of requests that have had none yet.

vLLM lists a step's outputs in the order in which the requests began, so that a first token would be told after all other
tokens of its step have been counted, sent and received: with a full batch that is milliseconds which somebody waits for an
answer to begin, and nobody else notices. Owns the order within a step only; which requests a step has is the scheduler's.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


def first_tokens_first(llm: "AsyncLLM") -> None:
    """Has an engine's outputs handled in that order from now on; before the task that reads them is started."""
    core, states = llm.engine_core, llm.output_processor.request_states
    take = core.get_output_async

    async def ordered() -> Any:
        outputs = await take()
        outputs.outputs = by_first_token(outputs.outputs, states)
        return outputs

    core.get_output_async = ordered


def by_first_token(outputs: Sequence[Any], states: "dict[str, Any]") -> list[Any]:
    """Those of requests that have had no output first, both in their old order.

    Args:
        outputs: of one step.
        states: vLLM's, of the requests that are known here; some may have left.
    """

    def had_one(output: Any) -> bool:
        state = states.get(output.request_id)
        return state is None or not state.is_prefilling

    return sorted(outputs, key=had_one)
