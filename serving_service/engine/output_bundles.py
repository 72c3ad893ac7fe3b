"""Answers in bundles: tokens are told a few at a time where telling each would cost more than it is worth.

Every token of every answer is detokenized, counted, packed, sent and received, which costs the service and its callers more of a
processor than scheduling does; with a full batch whoever comes waits behind all of that, several times on its way. So tokens for a
tenant that others wait beside are kept here, and told with the first that is made `BUNDLE_S` or more after the last bundle. And all
answers of a batch together are told in about so many pieces a second, as long as none is told later than that for it: quick steps of many
answers make more than one process can send.
First tokens, ends, and what carries more than tokens (log-probabilities, events) are told at once, with all that was kept. There is no
clock but the engine's steps: what is kept of an answer that has none for a while, because its adapter waits for its turn, is told when it
goes on.

Owns what is kept and for how long. Whose answers are a flood's is admission's to say.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

BUNDLE_S = 0.04
"""25 bundles a second still look like text that is being written; more tokens than one come in each where a step takes less."""


@dataclass(slots=True)
class _Answer:
    due: float
    kept: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Watched:
    crowds: Callable[[], bool]
    answers: dict[str, _Answer] = field(default_factory=dict)


class Bundles:
    """Of one engine.

    Args:
        states: vLLM's, of the requests that are known here, by its own ids; some may have left.
        rate: pieces a second, of all answers, if each then has one in `BUNDLE_S`; 0 sets no limit.
        clock: seconds, monotonic.
    """

    def __init__(self, states: "Mapping[str, Any]", rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._states, self._clock = states, clock
        self._piece_s = 1 / rate if rate else 0.0
        self._watched: dict[str, _Watched] = {}

    def begin(self, request_id: str, crowds: Callable[[], bool]) -> None:
        """Watches a request from now on.

        Args:
            request_id: ours, not vLLM's.
            crowds: whether it is a flood's; asked whenever something is told.
        """
        self._watched[request_id] = _Watched(crowds)

    def end(self, request_id: str) -> None:
        """Forgets a request, and what of it is kept; nothing happens when it is not known."""
        self._watched.pop(request_id, None)

    def told(self, outputs: Sequence[Any]) -> list[Any]:
        """Returns those of a step's outputs that are told now, in their order, each with what was kept of its answer.

        Args:
            outputs: vLLM's EngineCoreOutput; those that are kept are not to be used any more.
        """
        now = self._clock()
        # As many answers as this step has: each told so far apart, all of them make `rate` pieces a second.
        apart = min(len(outputs) * self._piece_s, BUNDLE_S)
        return [output for output in outputs if self._goes(output, now, apart)]

    def _goes(self, output: Any, now: float, apart: float) -> bool:
        state = self._states.get(output.request_id)
        if state is None or (watched := self._watched.get(state.external_req_id)) is None:
            return True
        answer = watched.answers.get(output.request_id)
        if answer is None:
            answer = watched.answers[output.request_id] = _Answer(now)
        elif now < answer.due and _is_plain(output):
            answer.kept += output.new_token_ids
            return False
        if answer.kept:
            output.new_token_ids = [*answer.kept, *output.new_token_ids]
            answer.kept = []
        if watched.crowds():
            answer.due = now + BUNDLE_S
        else:
            # From when it was due, not from when a step came: else steps a little quicker than that would be told every other time.
            answer.due = max(min(answer.due, now) + apart, now)
        return True


def bundled(llm: "AsyncLLM", rate: int) -> Bundles:
    """Has an engine's outputs go through what is returned, told in so many pieces a second at most; before the task that reads them is
    started."""
    core, bundles = llm.engine_core, Bundles(llm.output_processor.request_states, rate)
    take = core.get_output_async

    async def in_bundles() -> Any:
        outputs = await take()
        outputs.outputs = bundles.told(outputs.outputs)
        return outputs

    core.get_output_async = in_bundles
    return bundles


def _is_plain(output: Any) -> bool:
    """Whether an output says nothing but a further token or more."""
    return (
        output.finish_reason is None
        and output.new_logprobs is None
        and output.events is None
        and output.new_prompt_logprobs_tensors is None
    )
