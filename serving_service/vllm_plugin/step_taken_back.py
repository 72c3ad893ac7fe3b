"""Making vLLM's scheduler forget a step that was scheduled and not computed to its end (`step_under_way`).

A schedule counts its tokens as computed, and blocks of keys and values that they fill become findable by their prefix, before
anything is computed. Both are taken back here: the counts, and the blocks' entries, so that no other request is given a block
whose contents never came. The blocks themselves stay with their requests, who fill them in a later step.

Owns this, and telling which schedulers it is right for. What the step made the worker do (new requests, new blocks, ended
ones) stays done: the scheduler has told it and will not tell it again.
"""

from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec


def can_take_back(scheduler: Any) -> bool:
    """Whether a step leaves nothing else behind that matters than counts and blocks of full attention, which can be computed twice.

    States that a step changes (Mamba's) cannot, blocks behind a window are gone, drafts and what goes to other engines are told
    elsewhere. Statistics and events of a step stay.
    """
    groups = scheduler.kv_cache_config.kv_cache_groups
    return (
        len(groups) == 1
        and type(groups[0].kv_cache_spec) is FullAttentionSpec
        and scheduler.hash_block_size == groups[0].kv_cache_spec.block_size
        and scheduler.connector is None
        and scheduler.ec_connector is None
        and scheduler.aux_output_connector is None
        and not scheduler.use_v2_model_runner
        and not scheduler.num_spec_tokens
        and not scheduler.scheduler_config.async_scheduling
        and not scheduler.vllm_config.model_config.is_multimodal_model
    )


def fills_for_another(scheduler: Any, step: SchedulerOutput) -> bool:
    """Whether a request that begins in `step` was given a block that another one fills in it: the two cannot be told apart later."""
    begun = [*(new.req_id for new in step.scheduled_new_reqs), *step.scheduled_cached_reqs.resumed_req_ids]
    found = {name: before for name in begun if (before := _before(scheduler, step, name))}
    if not found:
        return False
    (blocks,) = scheduler.kv_cache_manager.coordinator.single_type_managers
    filled = {block.block_id for name in step.num_scheduled_tokens for block in _filled(scheduler, blocks, step, name)}
    return any(
        block.block_id in filled
        for name, before in found.items()
        for block in blocks.req_to_blocks[name][: before // blocks.block_size]
    )


def take_back(scheduler: Any, step: SchedulerOutput) -> None:
    """Undoes what scheduling `step` has counted. To be called before anything else changes: ends and aborts come later."""
    (blocks,) = scheduler.kv_cache_manager.coordinator.single_type_managers
    for name, tokens in step.num_scheduled_tokens.items():
        empty = {block.block_id for block in _filled(scheduler, blocks, step, name)}
        request = scheduler.requests[name]
        request.num_computed_tokens -= tokens
        request.num_in_flight_tokens -= tokens
        if empty and name in blocks.num_cached_block:
            scheduler.kv_cache_manager.evict_blocks(empty)
            blocks.num_cached_block[name] = request.num_computed_tokens // blocks.block_size


def _filled(scheduler: Any, blocks: Any, step: SchedulerOutput, name: str) -> list[Any]:
    """Blocks that a request fills in the step; the schedule has counted it."""
    before = _before(scheduler, step, name)
    after = before + step.num_scheduled_tokens[name]
    held: list[Any] = blocks.req_to_blocks[name]
    return held[before // blocks.block_size : after // blocks.block_size]


def _before(scheduler: Any, step: SchedulerOutput, name: str) -> int:
    """Tokens that a request had before the step; found in the cache or computed."""
    return int(scheduler.requests[name].num_computed_tokens - step.num_scheduled_tokens[name])
