"""vLLM's scheduler, with turns on the adapter slots: requests of more adapters can run than there are slots.

vLLM begins a request only when its adapter has a slot, and keeps it there until its end. Here requests of further adapters
run too; those whose adapter has no turn in a step are hidden from vLLM's scheduler for that step and keep their place and
their key/value blocks. vLLM's runner takes a running request that steps have left out as it is (a short budget of tokens
does the same to it), and before a step its worker copies into slots what the step computes with.

The same hiding serves newcomers: where one tenant uses more than its share, a step may be theirs alone.

Owns hiding, and which steps may be left for a newcomer. Which adapters compute is `slot_turns`', what else a step may take
`step_shares`', leaving `step_under_way`'s. Runs inside EngineCore.
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from serving_service.engine.protocol import NEWCOMER
from serving_service.vllm_plugin.loads import loads
from serving_service.vllm_plugin.slot_turns import SlotTurns
from serving_service.vllm_plugin.step_shares import StepShares
from serving_service.vllm_plugin.step_taken_back import can_take_back, fills_for_another, take_back
from serving_service.vllm_plugin.step_under_way import tell_of_newcomers, under_way

STEPS = 16
"""That an adapter keeps its slot for while others are paused."""


class _Sliced:
    """Mixed into vLLM's schedulers."""

    running: list[Request]
    waiting: Any
    lora_config: Any
    scheduler_config: Any
    max_num_active_reqs: int
    max_num_scheduled_tokens: int

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._turns = SlotTurns(self.lora_config.max_loras, STEPS)
        self._stuck: Request | None = None  # it had its turn and found no room in the engine
        self._shares = None if self.scheduler_config.async_scheduling else StepShares()
        self._began, self._alone, self._shared_out, self._disturbed = 0.0, False, False, False
        self._may_leave = self._shares is not None and can_take_back(self)
        self._left: SchedulerOutput | None = None
        under_way.take_back = self._take_back

    def add_request(self, request: Request) -> None:
        """Takes a request in, as vLLM does."""
        super().add_request(request)  # type: ignore[misc]
        under_way.seen(request.request_id)

    def schedule(self, *args: Any, **named: Any) -> SchedulerOutput:
        """Schedules one step among those whose adapters have a turn."""
        made = self._schedule(args, named)
        under_way.begin(self._gives_way(made), len(self.running))
        return made

    def _schedule(self, args: Any, named: Any) -> SchedulerOutput:
        self._began, self._alone, self._shared_out = time.monotonic(), False, False
        self._disturbed = loads.felt()
        running, waiting = self.running, list(self.waiting)
        chosen = self._turns.choose(map(_adapter, filter(_adapter, (*running, *waiting))), self._new(running, waiting))
        if chosen is None:
            made = self._shared(running, waiting, args, named)
            self._stuck = None
            return made
        shown = [request for request in running if _may(request, chosen)]
        made, left = self._among(shown, self._entering(waiting, chosen), args, named)
        self._stuck = next((one for one in left if _could_begin(one)), None)
        return made

    def update_from_output(self, step: SchedulerOutput, *args: Any, **named: Any) -> Any:
        """Takes a step's tokens, as vLLM does."""
        left, self._left = self._left, None
        if left is not None:
            nothing = replace(left, num_scheduled_tokens={}, total_num_scheduled_tokens=0)
            return super().update_from_output(nothing, *args, **named)  # type: ignore[misc]
        tells = step.total_num_scheduled_tokens and not self._alone
        if self._shares is not None and tells:
            prompts = sum(tokens for tokens in step.num_scheduled_tokens.values() if tokens > 1)
            self._shares.learn(time.monotonic() - self._began, prompts, crowded=self._disturbed or loads.felt())
        return super().update_from_output(step, *args, **named)  # type: ignore[misc]

    def _gives_way(self, made: SchedulerOutput) -> bool:
        """Whether a newcomer that comes now could have the next step for itself, if this one were left."""
        if self._shares is None or not self._may_leave or not self._shared_out or self._alone:
            return False
        if any(one.status == RequestStatus.PREEMPTED or one.priority == NEWCOMER for one in self.waiting):
            return False
        answering = sum(bool(one.num_output_tokens) for one in self.running)
        return (
            not any(one.priority == NEWCOMER and not one.num_output_tokens for one in self.running)
            and len(self.running) < self.max_num_active_reqs
            and self._shares.may_give_way(answering)
            and not fills_for_another(self, made)
        )

    def _take_back(self, step: SchedulerOutput) -> None:
        """The step is left, while it is computed."""
        take_back(self, step)
        self._left = step
        if self._shares is not None:
            self._shares.given_way()

    def _shared(self, running: list[Request], waiting: list[Request], args: Any, named: Any) -> SchedulerOutput:
        """Schedules a step in which nobody lacks a slot, newcomers before others."""
        shares = self._shares
        # Who lost its blocks comes before all others, as vLLM has it: newcomers would take what becomes free for it.
        if shares is None or any(one.status == RequestStatus.PREEMPTED for one in waiting):
            return super().schedule(*args, **named)  # type: ignore[misc]
        new = [one for one in waiting if one.priority == NEWCOMER and one.status == RequestStatus.WAITING]
        begun = [one for one in running if one.priority == NEWCOMER and _reads(one)]
        others = [one for one in running if one.priority != NEWCOMER and _reads(one)]
        answering = [one for one in running if not _reads(one)]
        lengths = [one.num_prompt_tokens - one.num_computed_tokens for one in (*begun, *new)]
        self._shared_out = True
        self._alone = len(running) < self.max_num_active_reqs and shares.alone(lengths, len(answering), self._began)
        if self._alone:
            return self._among(begun, new, args, named)[0]
        tokens = shares.prompt_tokens(lengths, len(answering), self._began)
        if tokens is None:
            entering = waiting[: max(0, self.max_num_active_reqs - len(running))]
            reading = (*filter(_reads, running), *entering)
            prompts = [(one.num_prompt_tokens, one.num_prompt_tokens - one.num_computed_tokens) for one in reading]
            tokens = shares.piece(prompts, len(answering), crowded=self._disturbed)
            return self._in_pieces(tokens, args, named)
        # vLLM gives a step's tokens out in this order: a flood's prompt that has begun would take all that answers behind it, and
        # newcomers, need.
        shown = [*answering, *begun, *([] if lengths else others)]
        first = _ids(new)
        return self._among(shown, [*new, *(one for one in waiting if id(one) not in first)], args, named, tokens)[0]

    def _in_pieces(self, tokens: int, args: Any, named: Any) -> SchedulerOutput:
        """Schedules a step that takes so many tokens of one prompt; 0: as many as vLLM takes."""
        longest = self.scheduler_config.long_prefill_token_threshold
        self.scheduler_config.long_prefill_token_threshold = tokens or longest
        try:
            made: SchedulerOutput = super().schedule(*args, **named)  # type: ignore[misc]
        finally:
            self.scheduler_config.long_prefill_token_threshold = longest
        return made

    def _among(
        self, shown: list[Request], entering: list[Request], args: Any, named: Any, prompt_tokens: int | None = None
    ) -> tuple[SchedulerOutput, list[Request]]:
        """Schedules a step in which vLLM sees only these.

        Args:
            shown, entering: of those that run and that wait.
            args, named: of `schedule`.
            prompt_tokens: that it may compute beside a token for each that runs; None: as many as vLLM takes.

        Returns:
            The step, and who of `entering` did not begin (or lost what it had).
        """
        running, waiting = self.running, list(self.waiting)
        bound, tokens, longest = (
            self.max_num_active_reqs,
            self.max_num_scheduled_tokens,
            self.scheduler_config.long_prefill_token_threshold,
        )
        self.running = list(shown)
        self.max_num_active_reqs = bound - (len(running) - len(shown))  # those that are hidden count
        self.waiting.clear()
        self.waiting.extend(entering)
        if prompt_tokens is not None:
            self.max_num_scheduled_tokens = min(tokens, len(shown) + prompt_tokens)
            # Of one prompt, too: a long one that has begun would leave those that began after it without their token.
            self.scheduler_config.long_prefill_token_threshold = prompt_tokens
        try:
            made: SchedulerOutput = super().schedule(*args, **named)  # type: ignore[misc]
        finally:
            self.max_num_active_reqs, self.max_num_scheduled_tokens = bound, tokens
            self.scheduler_config.long_prefill_token_threshold = longest
            left = list(self.waiting)
            gone = _ids(shown) - _ids(self.running)
            known = _ids(running)
            # In their old order, for vLLM takes blocks away from the last one first.
            self.running = [one for one in running if id(one) not in gone] + [
                one for one in self.running if id(one) not in known
            ]
            begun = _ids(entering) - _ids(left)
            was_waiting = _ids(waiting)
            self.waiting.clear()
            # Who lost its blocks in this step is put before all others, as vLLM does.
            self.waiting.extend(one for one in left if id(one) not in was_waiting)
            self.waiting.extend(one for one in waiting if id(one) not in begun)
        return made, left

    def _new(self, running: Iterable[Request], waiting: Iterable[Request]) -> list[int]:
        """Adapters of requests that could have their first token in the next step.

        While one that waits finds no room there are none but those that have begun with their prompt: giving it and those
        behind it slots would take them from requests whose end makes room.
        """
        first = [one for one in running if _reads(one)]
        if self._stuck is None:
            first += [one for one in waiting if one.status == RequestStatus.WAITING]
        return list(dict.fromkeys(filter(None, map(_adapter, first))))

    def _entering(self, waiting: list[Request], chosen: frozenset[int]) -> list[Request]:
        """Who may begin: of those that have a turn, none that is behind the one that found no room, so that small requests
        cannot take the room that a large one waits for whenever it has no turn."""
        entering = list[Request]()
        for request in waiting:
            if _may(request, chosen):
                entering.append(request)
            elif request is self._stuck:
                break
        return entering


class SlicedScheduler(_Sliced, Scheduler):  # type: ignore[misc]  # vLLM is not typed
    """For engines that wait for each step."""


class SlicedAsyncScheduler(_Sliced, AsyncScheduler):  # type: ignore[misc]
    """For engines that prepare the next step meanwhile."""


def scheduler(*, vllm_config: Any, **named: Any) -> Scheduler:
    """What EngineCore calls in place of a class: only the finished configuration says which one it needs."""
    tell_of_newcomers()
    kind = SlicedAsyncScheduler if vllm_config.scheduler_config.async_scheduling else SlicedScheduler
    return kind(vllm_config=vllm_config, **named)


def _adapter(request: Request) -> int:
    """Its id; 0 is the base, which needs no slot."""
    return request.lora_request.lora_int_id if request.lora_request is not None else 0


def _reads(request: Request) -> bool:
    """Whether its prompt is not through."""
    return bool(request.num_computed_tokens < request.num_prompt_tokens and not request.num_output_tokens)


def _may(request: Request, chosen: frozenset[int]) -> bool:
    adapter = _adapter(request)
    return not adapter or adapter in chosen


def _could_begin(request: Request) -> bool:
    """Not so those that wait for their grammar, or for input."""
    return request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)


def _ids(requests: Iterable[Request]) -> set[int]:
    return {id(request) for request in requests}
