"""The real engine: vLLM's AsyncLLM in this process, its EngineCore in one child.

The only file that knows the internals of a running vLLM (`vllm_launch` starts it); `tests/integration/serving/test_vllm_assumptions.py` fails when an upgrade
moves what we rely on. Does not own which adapter a request gets, or when one is evicted (`core.residency`).

Facts of vLLM 0.32 that shape this file: LoRA requests compare by name only and ids are not checked, so ids come from one
counter and are never used again; an adapter that fails to load inside a step kills the engine, so adapters are added by
a call of their own before any request names them; the scheduler assumes at most `max_loras` distinct ones per batch.
"""

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import structlog

from serving_service.engine.protocol import (
    AdapterRefused,
    Delta,
    EngineInfo,
    EngineUnavailable,
    LoraRef,
    Prompt,
    Rendered,
    Sampling,
    Tier,
    TokenScores,
)
from serving_service.engine.rendering import PromptRenderer
from serving_service.engine.vllm_launch import build, version
from serving_service.settings import ServingSettings

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

log = structlog.get_logger(__name__)

_STOP_SECONDS = 5.0  # what EngineCore gets between SIGTERM and SIGKILL; by then nothing is in flight


class VllmEngine:
    """Implements `engine.protocol.Engine`.

    Args:
        backbone: folder of the model.
        settings: sizes and limits.
    """

    def __init__(self, backbone: str, settings: ServingSettings) -> None:
        self._backbone = backbone
        self._settings = settings
        self._llm: AsyncLLM | None = None
        self._info: EngineInfo | None = None
        self._renderer: PromptRenderer | None = None
        self._stopping = False
        # Lives until `stop`: children get the parent-death signal when the thread that spawned them ends.
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="vllm-spawn")
        self._ids = itertools.count(1)
        self._requests: dict[str, LoRARequest] = {}
        self._host: set[int] = set()
        self._device: set[int] = set()
        self._slots_lock = asyncio.Lock()

    async def start(self) -> EngineInfo:
        """Loads the model; see the protocol."""
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        llm = await loop.run_in_executor(self._spawner, build, self._backbone, self._settings)
        self._llm = llm
        if self._stopping:  # stopped while loading
            await self.stop()
            raise EngineUnavailable("the engine was stopped while it was loading")
        llm._run_output_handler()  # started by the first request otherwise; calls before that would wait for ever
        config = llm.vllm_config
        self._renderer = PromptRenderer(_tokenizer(self._backbone), config.model_config.max_model_len)
        self._info = EngineInfo(
            engine=f"vllm {version()}",
            max_loras=config.lora_config.max_loras,
            max_lora_rank=config.lora_config.max_lora_rank,
            max_model_len=config.model_config.max_model_len,
            dtype=str(config.model_config.dtype).removeprefix("torch."),
            start_seconds=time.monotonic() - began,
        )
        await self._try_out()
        return self._info

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
            for child in multiprocessing.active_children():
                child.kill()
        if self._renderer is not None:
            self._renderer.close()
        if (llm := self._llm) is not None:
            from vllm.v1.engine.exceptions import EngineDeadError

            self._llm = None
            await asyncio.to_thread(llm.shutdown, _STOP_SECONDS)
            # `shutdown` may end the task that tells running requests of it before it did; they would wait for ever.
            llm.output_processor.propagate_error(EngineDeadError())
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

    def tier(self, name: str) -> Tier | None:
        if (request := self._requests.get(name)) is None or request.lora_int_id not in self._host:
            return None
        return Tier.DEVICE if request.lora_int_id in self._device else Tier.HOST

    async def refresh(self) -> None:
        ((host, device),) = await self._running().collective_rpc("graft_held_loras")
        self._host, self._device = set(host), set(device)

    async def load(self, lora: LoraRef) -> None:
        from vllm.lora.request import LoRARequest

        async with self._slots_lock:
            request = self._requests.get(lora.name)
            if request is None:
                request = LoRARequest(lora.name, next(self._ids), str(lora.path))
            try:
                await self._running().add_lora(request)
            except EngineUnavailable:
                raise
            except Exception as error:
                # vLLM hands worker errors over as bare Exception with the text of the first one.
                self._running()
                log.warning("adapter refused", adapter=lora.name, cause=str(error))
                raise AdapterRefused(
                    f"the engine cannot use {lora.name}: {_first_cause(error)}; train it again for this fleet"
                ) from error
            self._requests[lora.name] = request
            await self.refresh()  # loading one may have pushed others out

    async def unload(self, name: str) -> None:
        async with self._slots_lock:
            request = self._requests.pop(name, None)
            if request is None or not self.healthy:
                return
            await self._running().remove_lora(request.lora_int_id)
            await self.refresh()

    async def generate(
        self, request_id: str, rendered: Rendered, sampling: Sampling, *, lora: LoraRef | None, tenant: str
    ) -> AsyncGenerator[Delta, None]:
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        llm = self._running()
        # The salt goes into the first block's hash: tenants cannot learn from timings what others sent to the base.
        prompt = tokens_input(rendered.token_ids, cache_salt=tenant or None)
        request = self._requests[lora.name] if lora is not None else None
        outputs = llm.generate(prompt, _params(rendered, sampling), request_id, lora_request=request)
        try:
            async for output in outputs:
                piece = output.outputs[0]
                if output.finished and piece.finish_reason not in ("stop", "length"):
                    raise EngineUnavailable(f"the engine aborted request {request_id} (it is stopping); send it again")
                yield Delta(
                    piece.text,
                    len(piece.token_ids),
                    piece.finish_reason,
                    _scores(piece.token_ids, piece.logprobs),
                    _prompt_scores(rendered.token_ids, output.prompt_logprobs),
                )
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineUnavailable(f"the engine died under request {request_id}; send it again") from error
        finally:
            await outputs.aclose()  # aborts inside the engine when the caller left early


def _params(rendered: Rendered, sampling: Sampling) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        max_tokens=sampling.max_tokens,
        stop=[*sampling.stop, *rendered.stop],
        stop_token_ids=list(rendered.stop_token_ids),
        # 0: of the token itself, and of no alternatives.
        logprobs=0 if sampling.logprobs else None,
        prompt_logprobs=0 if sampling.prompt_logprobs else None,
        output_kind=RequestOutputKind.DELTA,
    )


def _scores(token_ids: Sequence[int], logprobs: Any) -> TokenScores | None:
    """Reads vLLM's form: for each position a table from token to its entry, which holds at least the token that is there."""
    if logprobs is None:
        return None
    ids = tuple(token_ids)
    return TokenScores(ids, tuple(entry[number].logprob for number, entry in zip(ids, logprobs, strict=True)))


def _prompt_scores(token_ids: Sequence[int], logprobs: Any) -> TokenScores | None:
    """As `_scores`; vLLM sends them once, on the first output, with None for the first token. Later outputs have []."""
    return _scores(token_ids[1:], logprobs[1:]) if logprobs else None


def _tokenizer(backbone: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(backbone)


def _first_cause(error: Exception) -> str:
    """The readable part of a worker's error, without vLLM's wrapping; never a stack trace."""
    text = str(error).removeprefix("Call to add_lora method failed: ")
    return text.split(", please check the stack trace")[0][:300]
