"""The real engine: vLLM's AsyncLLM in this process, its EngineCore in one child.

Owns its life and its answers. `vllm_launch` starts it, `held_adapters` keeps its adapters. Which adapter a request gets, and when one
is evicted, is `core.residency`'s. `tests/integration/serving/test_vllm_assumptions.py` fails when an upgrade moves what we rely on.
"""

import asyncio
import functools
import gc
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from graftwork.trace_context import trace_headers
from serving_service.engine.grammars import Grammars, off_the_loop
from serving_service.engine.held_adapters import HeldAdapters
from serving_service.engine.lifeline import Spawned
from serving_service.engine.one_prompt import render_in_place
from serving_service.engine.openai_protocol import Events, Kind, OpenAIEngine, Run
from serving_service.engine.output_bundles import Bundles, bundled
from serving_service.engine.output_order import first_tokens_first
from serving_service.engine.protocol import (
    NEWCOMER,
    AdapterRefused,
    Delta,
    EngineInfo,
    EngineUnavailable,
    LoraRef,
    Prompt,
    Rendered,
    Sampling,
    Tier,
)
from serving_service.engine.rendering import PromptRenderer
from serving_service.engine.staging_client import StagingClient
from serving_service.engine.vllm_launch import Merged, build, has_gpu, version
from serving_service.engine.vllm_params import params_of, prompt_scores_of, scores_of
from serving_service.settings import ServingSettings

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

RESERVED = 2
"""Which part of the budget of host memory is kept ready at most (see `vllm_plugin.reserve`)."""
log = structlog.get_logger(__name__)

_STOP_SECONDS = 5.0  # what EngineCore gets between SIGTERM and SIGKILL; by then nothing is in flight


class VllmEngine:
    """Implements `engine.protocol.Engine`.

    Args:
        backbone: folder of the model.
        settings: sizes and limits.
        merged: weights of one adapter merged; this engine then takes no adapters.
    """

    def __init__(self, backbone: str, settings: ServingSettings, merged: Merged | None = None) -> None:
        self._backbone = backbone
        self._settings = settings
        self._merged = merged
        self._shared: tuple[dict[str, Any], ...] = ()
        self._children = Spawned()
        self._llm: AsyncLLM | None = None
        self._info: EngineInfo | None = None
        self._renderer: PromptRenderer | None = None
        self._grammars: Grammars | None = None
        self._openai: OpenAIEngine | None = None
        self._stopping = False
        # Lives until `stop`: children get the parent-death signal when the thread that spawned them ends.
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="vllm-spawn")
        self._adapters: HeldAdapters | None = None  # None: the engine takes none
        self._slot_watchers = list[Callable[[float], None]]()
        self._bundles: Bundles | None = None
        # Of its own and short: a Unix socket's path holds 107 characters.
        self._sockets = Path(tempfile.mkdtemp(prefix="graft-"))

    async def start(self) -> EngineInfo:
        """Loads the model; see the protocol."""
        began = time.monotonic()
        self._llm = llm = await self._built()
        if self._stopping:  # stopped while loading
            await self.stop()
            raise EngineUnavailable("the engine was stopped while it was loading")
        # The tokenizer would look up its end token's number with each request.
        llm.renderer.get_eos_token_id = functools.cache(llm.renderer.get_eos_token_id)
        first_tokens_first(llm)
        self._bundles = bundled(llm, self._settings.pieces_per_second)
        llm._run_output_handler()  # started by the first request otherwise; calls before that would wait for ever
        rows = await llm.collective_rpc("graft_prepare_steps", args=(not self._settings.threads,))
        if any(rows):
            log.info("matrix kernels are there", rows=min(rows))
        if self._merged is None:
            # Not without a budget: nobody would map them, and it exchanges pointers inside vLLM's objects.
            if self._settings.merged_budget_bytes and self._settings.share_weights:
                self._shared = tuple(await llm.collective_rpc("graft_share_weights"))
                sizes = [size for worker in self._shared for _, size in worker.get("weights", {}).values()]
                log.info("weights that engines of merged weights can map", weights=len(sizes), bytes=sum(sizes))
            staging = await StagingClient.connect(
                await llm.collective_rpc(
                    "graft_open_staging", args=(str(self._sockets), self._settings.host_budget_bytes // RESERVED)
                )
            )
            self._adapters = HeldAdapters(self, staging, beside=has_gpu(), told=self._slot_written)
        config = llm.vllm_config
        tokenizer = _tokenizer(self._backbone)
        self._renderer = PromptRenderer(tokenizer, config.model_config.max_model_len)
        vocabulary = config.model_config.get_vocab_size()
        self._grammars = Grammars(tokenizer, vocabulary, self._settings.constraint_seconds)
        self._openai = await asyncio.to_thread(self._openai_serving, llm, self._renderer, self._grammars)
        self._info = EngineInfo(
            engine=f"vllm {version()}",
            max_loras=config.lora_config.max_loras if config.lora_config else 0,
            max_lora_rank=config.lora_config.max_lora_rank if config.lora_config else 0,
            max_model_len=config.model_config.max_model_len,
            dtype=str(config.model_config.dtype).removeprefix("torch."),
            start_seconds=time.monotonic() - began,
        )
        await self._try_out()
        if self._merged is None:
            # What is here now stays: the collector need not walk it again and again between tokens (torch alone is a million
            # objects). An engine of merged weights comes later, among requests, and goes again.
            gc.collect()
            gc.freeze()
        return self._info

    async def _built(self) -> "AsyncLLM":
        """Starts EngineCore; cancelled, it ends that first, whether its process is there already or not."""
        loop = asyncio.get_running_loop()
        building = loop.run_in_executor(
            self._spawner, build, self._backbone, self._settings, self._merged, self._children
        )
        try:
            return await asyncio.shield(building)
        except asyncio.CancelledError:
            self._children.end()
            await asyncio.wait({building})
            if building.exception() is None:
                await asyncio.to_thread(building.result().shutdown, _STOP_SECONDS)
            raise

    def _openai_serving(self, llm: "AsyncLLM", renderer: PromptRenderer, grammars: Grammars) -> OpenAIEngine:
        from serving_service.engine.openai_serving import OpenAIServing

        if has_gpu():
            render_in_place()
        try:
            return OpenAIServing(llm, renderer, grammars, self.lora_request, self._settings.tool_parser, self.outputs)
        except (KeyError, TypeError) as error:
            raise EngineUnavailable(
                f"the tool parser {self._settings.tool_parser!r} does not fit this backbone: {error}; "
                "set GRAFT_SERVING_TOOL_PARSER, empty for none"
            ) from error

    async def answer(self, kind: Kind, body: dict[str, Any], run: Run) -> str | Events:
        """Answers in OpenAI's form; see `engine.openai_protocol`."""
        self._running()
        assert self._openai is not None
        return await self._openai.answer(kind, body, run)

    async def _try_out(self) -> None:
        """Generates one token: vLLM accepts models at start that it cannot run (a head size without a kernel), and would
        die under the first tenant's request; and the first step is slower than all others."""
        probe = Rendered([1])
        try:
            async for _ in self.generate(
                "start-probe", probe, Sampling(temperature=0, max_tokens=1), lora=None, tenant=""
            ):
                pass
        except EngineUnavailable as error:
            raise EngineUnavailable(
                f"vLLM loaded {self._backbone} but cannot run it; the cause is in the log above"
            ) from error

    async def stop(self) -> None:
        """Ends EngineCore; see the protocol."""
        self._stopping = True
        if self._llm is None and self._info is None:
            # Still loading: without its child the loading thread ends at once instead of holding up our exit.
            self._children.end()
        if self._renderer is not None:
            self._renderer.close()
        if self._adapters is not None:
            await self._adapters.close()
        shutil.rmtree(self._sockets, ignore_errors=True)
        if self._grammars is not None:
            await self._grammars.close()
        if (llm := self._llm) is not None:
            from vllm.v1.engine.exceptions import EngineDeadError

            self._llm = None
            await asyncio.to_thread(llm.shutdown, _STOP_SECONDS)
            # `shutdown` may end the task that tells running requests of it before it did; they would wait for ever.
            llm.output_processor.propagate_error(EngineDeadError())
            multiprocessing.active_children()  # reaps what has ended: an engine of merged weights is not the last of us
        self._spawner.shutdown(wait=False)

    async def died(self) -> str:
        """Waits for EngineCore's process to end, or for the task that reads its answers: without either all calls hang."""
        if self._info is None or (llm := self._llm) is None or llm.output_handler is None:
            raise EngineUnavailable("the engine is not running, so it cannot be watched")
        sentinels = [process.sentinel for process in llm.engine_core.resources.engine_manager.processes]
        loop, exited = asyncio.get_running_loop(), asyncio.Event()
        for sentinel in sentinels:
            loop.add_reader(sentinel, exited.set)
        waiting = asyncio.create_task(exited.wait())
        try:
            await asyncio.wait({waiting, llm.output_handler}, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping:
                await loop.create_future()  # the protocol: never returns after `stop`
        finally:
            waiting.cancel()
            for sentinel in sentinels:
                loop.remove_reader(sentinel)
        return "vLLM's EngineCore ended unexpectedly; its last lines are in this service's log"

    @property
    def healthy(self) -> bool:
        return self._info is not None and self._llm is not None and not self._stopping and not self._llm.errored

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise EngineUnavailable("the engine is still loading; try again in a few seconds")
        return self._info

    @property
    def processes(self) -> list[int]:
        """Ids of the engine's processes."""
        manager = self._llm.engine_core.resources.engine_manager if self._llm is not None else None
        return [process.pid for process in manager.processes] if manager is not None else []

    @property
    def shared_weights(self) -> tuple[dict[str, Any], ...]:
        """What engines of merged weights need to map or open this one's, a worker each; empty where that is not possible."""
        return self._shared if all(self._shared) else ()

    async def shared_bytes(self) -> int:
        """Returns how many bytes of this engine's merged weights are the backbone's, over all workers."""
        return sum(await self._running().collective_rpc("graft_shared_bytes"))

    def _running(self) -> "AsyncLLM":
        if self._llm is None or not self.healthy:
            raise EngineUnavailable(
                "the engine is stopping or has died; try again in a few seconds"
                if self._info
                else "the engine is still loading; try again in a few seconds"
            )
        return self._llm

    async def render(self, prompt: Prompt, template: str | None) -> Rendered:
        self._running()
        assert self._renderer is not None
        return await self._renderer.render(prompt, template)

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def answers(self) -> "asyncio.Task[None] | None":
        return self._llm.output_handler if self._llm is not None else None

    async def call(self, method: str, *args: object) -> list[Any]:
        """Calls a method of every worker, between two steps; see `held_adapters.Loop`."""
        return list(await self._running().collective_rpc(method, args=args))

    def lora_request(self, lora: LoraRef | None) -> "LoRARequest | None":
        """Returns what vLLM calls a loaded adapter, None for the base. Raises EngineUnavailable for one that the loop could not take, and
        AdapterRefused where the engine takes none."""
        if lora is None:
            return None
        return self._held().request(lora)

    def _held(self) -> HeldAdapters:
        self._running()
        if self._adapters is None:
            raise AdapterRefused("this engine runs merged weights and takes no adapters")
        return self._adapters

    def tier(self, name: str) -> Tier | None:
        return self._adapters.tier(name) if self._adapters else None

    def slot(self, name: str) -> int | None:
        return self._adapters.slot(name) if self._adapters else None

    def device_ms(self, name: str) -> float:
        return self._adapters.device_ms(name) if self._adapters else 0.0

    def watch_slots(self, told: Callable[[float], None]) -> None:
        self._slot_watchers.append(told)

    def _slot_written(self, ms: float) -> None:
        for told in self._slot_watchers:
            told(ms)

    async def refresh(self) -> None:
        if self._merged is None:
            await self._held().refresh()

    async def load(self, lora: LoraRef) -> int:
        return await self._held().load(lora)

    def loading(self, size: int) -> AbstractAsyncContextManager[None]:
        return self._adapters.loading(size) if self._adapters else nullcontext()

    async def unload(self, name: str) -> None:
        if self._adapters:
            await self._adapters.unload(name)

    async def outputs(
        self,
        prompt: Any,
        params: Any,
        request_id: str,
        request: "LoRARequest | None",
        newcomer: bool = False,
        crowds: Callable[[], bool] | None = None,
        **more: Any,
    ) -> AsyncGenerator[Any, None]:
        """Streams vLLM's own outputs, for both front ends; while it runs, no load pushes its adapter out of a slot."""
        llm = self._running()
        assert self._bundles is not None
        # A plain dict: they go to EngineCore and back.
        trace = dict(trace_headers()) if self._settings.traces_url else None
        more |= {"trace_headers": trace, "priority": NEWCOMER if newcomer else 0}
        # It is this request's alone: copying all of it was a fifth of what vLLM takes to take a request in.
        params.skip_clone = True
        outputs = llm.generate(prompt, params, request_id, lora_request=request, **more)
        unseen = True
        if crowds is not None and not params.stop:  # what comes after a text that ends it is better seen at once
            self._bundles.begin(request_id, crowds)
        held = self._adapters if request is not None else None
        try:
            with held.used(request) if held else nullcontext():
                if held:
                    await held.bring(request)
                async for output in outputs:
                    yield output  # first: the books below take a step's time
                    if unseen and held:
                        await held.saw(request)
                    unseen = False  # where adapters take turns, asking again for each token would be all that happens
        finally:
            self._bundles.end(request_id)
            await outputs.aclose()  # aborts inside the engine when the caller left early

    async def generate(
        self,
        request_id: str,
        rendered: Rendered,
        sampling: Sampling,
        *,
        lora: LoraRef | None,
        tenant: str,
        newcomer: bool = False,
        crowds: Callable[[], bool] | None = None,
    ) -> AsyncGenerator[Delta, None]:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        from serving_service.engine.openai_tap import refused

        self._running()
        # The salt goes into the first block's hash: tenants cannot learn from timings what others sent to the base.
        prompt: Any = tokens_input(rendered.token_ids, cache_salt=tenant or None)
        params = params_of(rendered, sampling)
        if sampling.constraint is not None:
            assert self._grammars is not None
            await self._grammars.check(params.structured_outputs)
            prompt = off_the_loop(prompt)
        outputs = self.outputs(prompt, params, request_id, self.lora_request(lora), newcomer, crowds)
        try:
            async for output in outputs:
                for piece in output.outputs:
                    ended = piece.finish_reason or output.finished
                    if ended and piece.finish_reason not in ("stop", "length"):
                        raise EngineUnavailable(
                            f"the engine aborted request {request_id} (it is stopping); send it again"
                        )
                    yield Delta(
                        piece.text,
                        len(piece.token_ids),
                        piece.finish_reason,
                        scores_of(piece.token_ids, piece.logprobs, sampling.top_logprobs),
                        prompt_scores_of(rendered.token_ids, output.prompt_logprobs),
                        piece.index,
                    )
        except VLLMClientError as error:
            raise refused(error) from error
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineUnavailable(f"the engine died under request {request_id}; send it again") from error
        finally:
            await outputs.aclose()


def _tokenizer(backbone: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(backbone)
