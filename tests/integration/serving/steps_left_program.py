"""Run by test_serving_steps_left.py in a process of its own: an engine whose steps are left, at random or for newcomers.

usage: python steps_left_program.py random|newcomers BACKBONE ADAPTER ADAPTER WORK_FOLDER
"""

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import sentencepiece  # noqa: F401  # as services have it: it brings an OpenMP of its own

from serving_service.engine import vllm_launch
from serving_service.engine.protocol import NEWCOMER
from serving_service.settings import ServingSettings
from serving_service.vllm_plugin import spinning
from serving_service.vllm_plugin.step_under_way import Left, under_way
from serving_service.vllm_plugin.worker import GraftWorkerExtension

BLOCK = 32
ANSWER = 40
HEAD = [5 + (7 * n) % 80 for n in range(3 * BLOCK)]
"""What prompts have in common: whole blocks, which a later request is given."""


class Counting(GraftWorkerExtension):
    def graft_count_left(self) -> None:
        leave = under_way.leave

        def leave_and_count(step: Any) -> None:
            self._left += 1
            leave(step)

        self._left, under_way.leave = 0, leave_and_count  # type: ignore[method-assign]

    def graft_left(self) -> int:
        return self._left

    def graft_spinning(self) -> bool:
        assert self._graft_threads is not None  # with one thread it has not been looked for
        return self._graft_threads._spinning is not None or spinning.found() is not None


def settings(work: Path) -> ServingSettings:
    return ServingSettings(
        store_url="file:///nowhere",
        operator_key_file=work / "key",
        cache_dir=work,
        dtype="float32",
        max_num_seqs=8,
        max_loras=2,
        kv_cache_gib=0.1,
        merged_budget_bytes=0,
    )


def prompts(draw: random.Random) -> list[list[int]]:
    """Of all lengths, most with a part of the head in front; the same one twice now and then."""
    made = [
        HEAD[: draw.choice((0, 1, 2, 3)) * BLOCK] + draw.choices(range(5, 85), k=draw.randint(1, 70)) for _ in range(40)
    ]
    return [*made, *draw.choices(made, k=20)]


def at_random(backbone: str, adapters: list[str], work: Path) -> dict[str, Any]:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine is here, so its scheduler can be reached
    from vllm import LLM, SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import StructuredOutputsParams

    from serving_service.vllm_plugin import slot_scheduler
    from serving_service.vllm_plugin.step_taken_back import fills_for_another

    llm = LLM(
        model=backbone,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=12,
        max_num_batched_tokens=128,
        block_size=BLOCK,
        kv_cache_memory_bytes=1 << 27,
        num_gpu_blocks_override=20,  # not enough for all that run: some are pushed out and resumed
        max_model_len=512,
        gpu_memory_utilization=0.2,  # of the machine, of which other tests have a part
        enable_prefix_caching=True,
        distributed_executor_backend="uni",
        enable_lora=True,
        max_loras=2,
        max_lora_rank=16,
        scheduler_cls="serving_service.vllm_plugin.slot_scheduler.scheduler",
        worker_extension_cls="serving_service.vllm_plugin.worker.GraftWorkerExtension",
    )
    llm.collective_rpc("graft_prepare_steps", args=(False,))
    engine = llm.llm_engine
    scheduler = engine.engine_core.engine_core.scheduler
    (blocks,) = scheduler.kv_cache_manager.coordinator.single_type_managers
    loras = [None, *(LoRARequest(f"a{n}", n, folder) for n, folder in enumerate(adapters, 1))]
    ways = [
        {"temperature": 0},
        {"temperature": 1.0, "seed": 5, "n": 2},
        {"temperature": 0.8, "seed": 3, "presence_penalty": 1.0, "min_tokens": 5},
        {"temperature": 0, "prompt_logprobs": 1},
        {"temperature": 1.0, "seed": 7, "structured_outputs": StructuredOutputsParams(regex="[a-f]{40}")},
    ]
    params = [SamplingParams(max_tokens=ANSWER, ignore_eos=True, logprobs=2, **way) for way in ways]
    push_out = scheduler._preempt_request
    draw = random.Random(7)
    asks = [(prompt, draw.randrange(3)) for prompt in prompts(draw)]

    def answers(*, leaves: bool) -> dict[str, Any]:
        """All of them, a few new ones in each step; every seventh goes away in the middle and is not among them."""
        when, done = random.Random(3), dict[str, Any]()
        seen: dict[
            str, dict[int, Any]
        ] = {}  # of each request and answer the last; vLLM's last one of several has only the answer that ended last
        counts = {"asked": 0, "steps": 0, "left": 0, "not left": 0, "found": 0, "pushed out": 0, "off the books": 0}

        def ask() -> None:
            counts["asked"] += 1
            if leaves and under_way._may and when.random() < 0.04:
                raise Left

        def leave(step: Any) -> None:
            counts["left"] += 1
            scheduler._take_back(step)

        def push_out_and_count(*args: Any, **named: Any) -> None:
            counts["pushed out"] += 1
            push_out(*args, **named)

        def gives_way(self: Any, made: Any) -> bool:
            fills = fills_for_another(self, made)
            counts["not left"] += fills
            return bool(made.total_num_scheduled_tokens) and not fills

        under_way.ask, under_way.leave = ask, leave  # type: ignore[method-assign]
        under_way.begin = lambda may, running: setattr(under_way, "_may", may)  # type: ignore[method-assign]
        slot_scheduler._Sliced._gives_way = gives_way  # type: ignore[method-assign]
        scheduler._preempt_request = push_out_and_count
        rest = list(enumerate(asks))
        while rest or engine.has_unfinished_requests():
            for _ in range(min(len(rest), when.randint(0, 4))):
                number, (prompt, who) = rest.pop(0)
                way, taken = params[number % len(params)], tokens_input(prompt, cache_salt="t")
                engine.add_request(str(number), taken, way, lora_request=loras[who])
            counts["steps"] += 1
            for output in engine.step():
                parts = seen.setdefault(output.request_id, {})
                parts |= {part.index: part for part in output.outputs}
                if int(output.request_id) % 7 == 6 and len(output.outputs[0].token_ids) >= 2 and not output.finished:
                    engine.abort_request([output.request_id])
                elif output.finished:
                    counts["found"] += (output.num_cached_tokens or 0) > 0
                    of_prompt = zip(output.prompt_token_ids, output.prompt_logprobs or [], strict=False)
                    done[output.request_id] = [
                        *(_scores(parts[index].token_ids, parts[index].logprobs) for index in sorted(parts)),
                        [(token, place[token].logprob) for token, place in of_prompt if place],
                    ]
            for one in scheduler.running:
                known = blocks.num_cached_block.get(one.request_id, 0)
                counts["off the books"] += one.num_in_flight_tokens + (known != one.num_computed_tokens // BLOCK)
        pool = scheduler.kv_cache_manager.block_pool
        counts["blocks in use"] = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
        assert scheduler.reset_prefix_cache()
        return {"answers": done, "counts": counts}

    long = tokens_input([*HEAD, *HEAD], cache_salt="s")  # more than a step takes; the second time most of it is there

    def seeded(seed: int) -> list[int]:
        way = SamplingParams(temperature=1.0, seed=seed, max_tokens=ANSWER, ignore_eos=True)
        return list(llm.generate([long], way, use_tqdm=False)[0].outputs[0].token_ids)

    said = {"seeded": [seeded(5), seeded(5), seeded(6)]}
    return said | {"usual": answers(leaves=False), "left": answers(leaves=True)}


def _scores(tokens: list[int], places: list[dict[int, Any]]) -> list[tuple[int, float]]:
    return [(token, place[token].logprob) for token, place in zip(tokens, places, strict=True)]


async def for_newcomers(backbone: str, adapters: list[str], work: Path) -> dict[str, Any]:
    vllm_launch._EXTENSION = (
        f"{__name__ if __name__ != '__main__' else 'tests.integration.serving.steps_left_program'}.Counting"
    )
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.lora.request import LoRARequest

    llm = await asyncio.to_thread(vllm_launch.build, backbone, settings(work))
    lora = [LoRARequest(f"a{n}", n, folder) for n, folder in enumerate(adapters, 1)]
    numbers = iter(range(10**6))

    async def answer(prompt: list[int], tokens: int, priority: int) -> list[int]:
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        name = str(next(numbers))
        outputs = llm.generate(
            tokens_input(prompt, cache_salt=name),
            params,
            name,
            lora_request=lora[priority == NEWCOMER],
            priority=priority,
        )
        return list([output async for output in outputs][-1].outputs[0].token_ids)

    try:
        llm._run_output_handler()
        await llm.collective_rpc("graft_prepare_steps", args=(True,))
        await llm.collective_rpc("graft_count_left")
        flood = [[7 + n, 9, 11, 13] for n in range(6)]
        new = [list(range(5 + n, 35 + n)) for n in range(25)]
        alone = (
            [await answer(prompt, 200, 0) for prompt in flood],
            [await answer(prompt, 4, NEWCOMER) for prompt in new],
        )
        before = (await llm.collective_rpc("graft_left"))[0]
        flooding = [asyncio.create_task(answer(prompt, 200, 0)) for prompt in flood]
        met = []
        for prompt in new:
            flooding += [
                asyncio.create_task(answer(flood[0], 200, 0)) for _ in range(6 - sum(not t.done() for t in flooding))
            ]
            met.append(await answer(prompt, 4, NEWCOMER))
        flooded = [await task for task in flooding][: len(flood)]
        left = (await llm.collective_rpc("graft_left"))[0]
        spinning = (await llm.collective_rpc("graft_spinning"))[0]
    finally:
        llm.shutdown()
    return {"spinning": spinning, "left before": before, "left": left, "alone": alone, "together": (flooded, met)}


def main(how: str, backbone: str, adapters: list[str], work: Path) -> None:
    vllm_launch.environment(settings(work))
    said = (
        at_random(backbone, adapters, work) if how == "random" else asyncio.run(for_newcomers(backbone, adapters, work))
    )
    print(json.dumps(said))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:5], Path(sys.argv[5]))
