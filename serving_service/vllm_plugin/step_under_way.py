"""Leaving the step under way when a newcomer comes: on a CPU nothing but the program itself keeps a step from ending early.

Where one tenant floods, a newcomer's first token waits for the step that it finds under way, and then for its own. A step is a row of
layers that one thread goes through, so before any of their matrices it can be given up: its tokens are computed again, in a later step, and
what they had written into the cache is written again, with the same values. What that loses is the time since the step began, so
a step is not left near its end, and only a small part of all time may be lost.

Owns whether somebody waits, whether the step may be left, and what leaving has cost. The scheduler says who is a newcomer and which
steps may be left (`slot_scheduler`), `step_taken_back` makes the scheduler forget one, a layer asks at its attention and its
matrices (`cpu_attention`, `cpu_linears`). All of them run in one process, where on CPUs the scheduler and the worker are: the
thread that computes, and one that takes requests in.
"""

import time
from collections.abc import Callable
from typing import Any

from serving_service.engine.protocol import NEWCOMER
from serving_service.vllm_plugin.step_shares import MOST_ALONE

FIRST_LAYERS = 0.75
"""Of a model, rounded up, in which a step can be left. The later, the more is lost and the less is spared; what follows the layers cannot be left."""
LOST = 0.03
"""Of all time, that leaving may cost at most."""
MOST_LOST_S = 0.1
"""At once, after a time without: a step that took longer is not left any more."""


class Left(Exception):
    """The step under way is given up. Raised by a layer, caught around the model."""


class StepUnderWay:
    """Of this process.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._coming = set[str]()  # taken in, and not seen by the scheduler yet
        self._left_for = set[str]()  # those of them that the last step was left for
        self._may, self._began, self._accrued, self._saved = False, 0.0, clock(), 0.0
        self.can_be_left = False
        """Whether the model's layers ask at all."""
        self.take_back: Callable[[Any], None] | None = None
        """Makes the scheduler forget a step that was left."""
        self.running = 0
        """Requests that run, those included that are hidden from the step."""

    def comes(self, request: str) -> None:
        """A newcomer has been taken in; from any thread."""
        self._coming.add(request)

    def seen(self, request: str) -> None:
        """The scheduler has it: the next step can be its own."""
        self._coming.discard(request)

    def begin(self, may: bool, running: int = 0) -> None:
        """A step begins.

        Args:
            may: it may be left, for all that the scheduler knows.
            running: requests, in the step or not.
        """
        self.running = running
        self._began = self._clock()
        self._saved = min(MOST_LOST_S, self._saved + LOST * (self._began - self._accrued))
        self._accrued = self._began
        self._may = may and self.can_be_left

    def ask(self) -> None:
        """In a layer, before it computes the next of its parts.

        Raises:
            Left: somebody waits, the step may be left, and what it took may be lost.
        """
        if self._coming and self._may and self._clock() - self._began <= self._saved:
            raise Left

    def stay(self) -> None:
        """The step that has begun is not left: it makes something that later ones take for made."""
        self._may = False

    def leave(self, step: Any) -> None:
        """A step was left; what it took counts as lost.

        Args:
            step: vLLM's, as it was scheduled.
        """
        self._may = False
        self._saved -= self._clock() - self._began
        # Who is still not there after two steps never comes, or leaving would go on for it.
        self._coming -= self._left_for
        self._left_for = set(self._coming)
        if self.take_back is not None:
            self.take_back(step)


under_way = StepUnderWay()


def tell_of_newcomers() -> None:
    """Makes vLLM's thread that takes requests in tell of newcomers at once: the loop looks for them between two steps only."""
    from vllm.v1.engine.core import EngineCore

    prepare = EngineCore.preprocess_add_request

    def prepare_and_tell(self: Any, request: Any) -> Any:
        made, wave = prepare(self, request)
        # Who has to wait for its grammar, or has more to read than a step of its own may take, would not be in the next step.
        if made.priority == NEWCOMER and not made.use_structured_output and made.num_prompt_tokens <= MOST_ALONE:
            under_way.comes(made.request_id)
        return made, wave

    EngineCore.preprocess_add_request = prepare_and_tell


def may_be_left(runner: Any) -> None:
    """Makes a worker's runner end a step that a layer gives up with nothing, as if it had computed no token."""
    from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT

    execute = runner.execute_model

    def execute_or_leave(step: Any, *args: Any, **named: Any) -> Any:
        try:
            return execute(step, *args, **named)
        except Left:
            under_way.leave(step)
            return EMPTY_MODEL_RUNNER_OUTPUT

    runner.execute_model = execute_or_leave
    under_way.can_be_left = True
