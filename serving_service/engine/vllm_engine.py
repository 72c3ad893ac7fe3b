"""The real engine: vLLM's AsyncLLM in this process, its EngineCore in one child.

The only file that knows the internals of a running vLLM (`vllm_launch` starts it); `tests/integration/serving/test_vllm_assumptions.py` fails when an upgrade
moves what we rely on. Does not own which adapter a request gets, or when one is evicted (`core.residency`).

Facts of vLLM 0.32 that shape this file: LoRA requests compare by name only and ids are not checked, so ids come from one
counter and are never used again; an adapter that fails to load inside a step kills the engine, so adapters are staged and
taken before any request names them, and vLLM's own eviction from host memory is off (it would load them again inside a
step); the scheduler assumes at most `max_loras` distinct ones per batch.
"""

import asyncio
import gc
import itertools
import multiprocessing
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from graftwork.trace_context import trace_headers
from serving_service.engine.grammars import Grammars, off_the_loop
from serving_service.engine.lifeline import Spawned
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
PATIENT_BYTES = 8 << 20
"""A load this large waits for the step under way, which computes with all cores: the two would slow each other by more."""
PATIENT_S = 0.5
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
        self._ids = itertools.count(1)
        self._requests: dict[str, LoRARequest] = {}
        self._host: set[int] = set()
        self._device: dict[int, int] = {}
        self._taking: dict[int, asyncio.Task[None]] = {}  # staged; the loop has been told to take them
        self._busy: Counter[int] = Counter()  # requests per adapter: what no load may push out of its slot
        self._bundles: Bundles | None = None
        self._staging: StagingClient | None = None
        self._loading = 0
        self._in_parts = False  # slots are filled in parts (see `vllm_plugin.slot_filling`)
        # Of its own and short: a Unix socket's path holds 107 characters.
        self._sockets = Path(tempfile.mkdtemp(prefix="graft-"))

    async def start(self) -> EngineInfo:
        """Loads the model; see the protocol."""
        began = time.monotonic()
        self._llm = llm = await self._built()
        if self._stopping:  # stopped while loading
            await self.stop()
            raise EngineUnavailable("the engine was stopped while it was loading")
        first_tokens_first(llm)
        self._bundles = bundled(llm)
        llm._run_output_handler()  # started by the first request otherwise; calls before that would wait for ever
        rows = await llm.collective_rpc("graft_prepare_steps", args=(not self._settings.threads,))
        if any(rows):
            log.info("matrix kernels are there", rows=min(rows))
        if self._merged is None:
            self._in_parts = has_gpu()
            # Not without a budget: nobody would map them, and it exchanges pointers inside vLLM's objects.
            if self._settings.merged_budget_bytes and self._settings.share_weights:
                self._shared = tuple(await llm.collective_rpc("graft_share_weights"))
                sizes = [size for worker in self._shared for _, size in worker.get("weights", {}).values()]
                log.info("weights that engines of merged weights can map", weights=len(sizes), bytes=sum(sizes))
            self._staging = await StagingClient.connect(
                await llm.collective_rpc(
                    "graft_open_staging", args=(str(self._sockets), self._settings.host_budget_bytes // RESERVED)
                )
            )
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
        if self._staging is not None:
            await self._staging.close()
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

    def lora_request(self, lora: LoraRef | None) -> "LoRARequest | None":
        """Returns what vLLM calls a loaded adapter. Raises EngineUnavailable for one that the loop could not take."""
        if lora is None:
            return None
        if (request := self._requests.get(lora.name)) is None:
            raise EngineUnavailable(f"the engine has lost {lora.name}; try again, it will be loaded anew")
        return request

    def tier(self, name: str) -> Tier | None:
        if (request := self._requests.get(name)) is None or request.lora_int_id not in self._host:
            return None
        return Tier.DEVICE if request.lora_int_id in self._device else Tier.HOST

    def slot(self, name: str) -> int | None:
        return self._device.get(request.lora_int_id) if (request := self._requests.get(name)) else None

    async def refresh(self) -> None:
        if self._merged is None:
            await self._hold("graft_held_loras")

    async def _hold(self, method: str, *args: object) -> None:
        """Calls the extension's `method`, which answers with what is held; all workers hold the same."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            host, slots = (await self._running().collective_rpc(method, args=args))[0]
        except EngineDeadError as error:
            raise EngineUnavailable("the engine has died; try again in a few seconds") from error
        # An answer that is older than a take does not know of it.
        self._host = {*host, *self._taking}
        self._device = {held: slot for slot, held in enumerate(slots) if held is not None}

    async def load(self, lora: LoraRef) -> int:
        from vllm.lora.request import LoRARequest

        self._running()
        if self._staging is None:
            raise AdapterRefused("this engine runs merged weights and takes no adapters")
        request = LoRARequest(lora.name, next(self._ids), str(lora.path))
        try:
            size = await self._staging.stage(request.lora_int_id, lora)
        except AdapterRefused as error:
            log.warning("adapter refused", adapter=lora.name, cause=str(error))
            raise AdapterRefused(
                f"the engine cannot use {lora.name}: {str(error)[:300]}; train it again for this fleet"
            ) from error
        except asyncio.CancelledError:
            self._staging.drop(request.lora_int_id)
            raise
        self._requests[lora.name] = request
        self._host.add(request.lora_int_id)
        # On a CPU its answer is not awaited: that comes a step later, and the request that waits for this would miss that step.
        # What is sent to EngineCore is done in order.
        task = asyncio.create_task(self._take(lora.name, request.lora_int_id), name="take")
        self._taking[request.lora_int_id] = task
        await asyncio.sleep(0)  # the task's first turn, which sends; a caller's own call could come before it otherwise
        if self._in_parts:
            # A step that finds the slot half full would copy the rest at once. What waits for EngineCore is not told that it died.
            died = self._running().output_handler
            await asyncio.wait([task, *([died] if died else [])], return_when=asyncio.FIRST_COMPLETED)
            if self._requests.get(lora.name) is not request or not self.healthy:
                raise EngineUnavailable(f"the engine could not take {lora.name}; try again in a few seconds")
        return size

    @asynccontextmanager
    async def loading(self, size: int) -> AsyncIterator[None]:
        self._loading += 1
        try:
            if self._loading == 1 and self._staging is not None:
                self._staging.leave_cores(1)
                if size >= PATIENT_BYTES:
                    await self._staging.left(PATIENT_S)
            yield
        finally:
            self._loading -= 1
            if not self._loading and self._staging is not None:
                self._staging.leave_cores(0)

    async def _take(self, name: str, lora_id: int) -> None:
        """Has the loop take a staged adapter; one that it could not take is not held."""
        try:
            await self._hold("graft_take", lora_id, list(self._busy))
            while self._in_parts and any(await self._running().collective_rpc("graft_fill", args=(lora_id,))):
                pass  # a step goes in between
        except Exception as error:
            if not self._stopping:
                log.error("a staged adapter was not taken", adapter=name, cause=repr(error))
            if (request := self._requests.get(name)) and request.lora_int_id == lora_id:
                del self._requests[name]
            await self._give_back(name, lora_id)
            self._host.discard(lora_id)  # last: an answer of the loop's counts what is being taken as held
        finally:
            del self._taking[lora_id]

    async def _give_back(self, name: str, lora_id: int) -> None:
        """Drops what the loop has of an adapter that it could not take, a part of a slot perhaps."""
        if self.healthy:
            try:
                await self._hold("graft_drop", lora_id)
            except Exception as error:
                log.error("what was taken of an adapter was not dropped", adapter=name, cause=repr(error))

    async def unload(self, name: str) -> None:
        request = self._requests.pop(name, None)
        if request is not None and (taking := self._taking.get(request.lora_int_id)):
            await asyncio.wait([taking])  # else what is on its way would be counted as held again
        if request is not None and self.healthy:
            await self._hold("graft_drop", request.lora_int_id)

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
        outputs = llm.generate(prompt, params, request_id, lora_request=request, **more)
        unseen = True
        if crowds is not None and not params.stop:  # what comes after a text that ends it is better seen at once
            self._bundles.begin(request_id, crowds)
        if request is not None:
            self._busy[request.lora_int_id] += 1
        try:
            async for output in outputs:
                yield output  # first: the books below take a step's time
                if unseen and request is not None and request.lora_int_id not in self._device:
                    await self.refresh()  # the step has just put it into a slot, and something else out of one
                unseen = False  # where adapters take turns, asking again for each token would be all that happens
        finally:
            self._bundles.end(request_id)
            if request is not None:
                self._busy[request.lora_int_id] -= 1
                self._busy += Counter()  # drops what is at zero
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
