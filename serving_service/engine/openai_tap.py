"""What stands in for vLLM's engine while one of its request handlers serves one of our requests.

The handlers call `generate`; here the adapter is put in, tokens are counted, constraints are tried out, and errors become
ours. Nothing that a client wrote decides on adapter, priority or place. Owns that one call and the first error of a request.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

import jinja2
from vllm.exceptions import GenerationError, VLLMClientError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from graftwork.errors import GraftError
from serving_service.engine.grammars import Grammars, off_the_loop
from serving_service.engine.openai_protocol import Run
from serving_service.engine.protocol import EngineUnavailable, ParametersRefused, PromptRefused

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

Outputs = Callable[..., AsyncGenerator[Any, None]]
"""As `VllmEngine.outputs`."""
_MAX_SCORED_PROMPT = 4096  # tokens; the engine holds a row of the whole vocabulary for each
_TEXT_CHARS = 500
_ENDS = (None, "stop", "length")


class Tap:
    """The part of vLLM's EngineClient that its handlers use, for one request.

    Args:
        llm: the engine.
        lora: of the request.
        grammars: tries constraints out.
        run: told of tokens.
        outputs: generates; `VllmEngine.outputs`.
        bundles: several tokens may come at once.

    Attributes:
        error: the first that came up.
        cancelled: whether the caller has gone; vLLM's handlers turn that into an answer.
    """

    def __init__(
        self,
        llm: "AsyncLLM",
        lora: "LoRARequest | None",
        grammars: Grammars,
        run: Run,
        outputs: Outputs,
        *,
        bundles: bool,
    ) -> None:
        self._llm, self._lora, self._grammars, self._run, self._outputs = llm, lora, grammars, run, outputs
        self._crowds = run.crowds if bundles else None
        self.error: Exception | None = None
        self.cancelled = False
        self._streams: list[AsyncGenerator[Any, None]] = []
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def errored(self) -> bool:
        return bool(self._llm.errored)

    @property
    def dead_error(self) -> Exception:
        return EngineUnavailable("the engine has died; try again in a few seconds")

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """vLLM's own queue has no bound here; ours comes before it."""

    def fail(self, error: Exception | str) -> None:
        """Keeps the first error."""
        if self.error is None:
            self.error = translated(error) if isinstance(error, Exception) else RuntimeError(error)
            self._run.failed(self.error)

    async def close(self) -> None:
        """Stops what still runs, and returns when the engine has been told so. The handlers leave their streams to the
        garbage collector, which would be after the adapter is given back."""
        for stream in self._streams:
            with contextlib.suppress(RuntimeError):  # inside a task of vLLM's that is being cancelled
                await stream.aclose()
        await self._idle.wait()

    def generate(
        self,
        prompt: Any,
        sampling_params: Any,
        request_id: str,
        *,
        reasoning_ended: bool | None = None,
        reasoning_parser_kwargs: dict[str, Any] | None = None,
        **ours: Any,  # lora_request, priority, session_id, ...: not a client's to say
    ) -> AsyncGenerator[Any, None]:
        """Generates; every error is kept in `error` and raised as the one that handlers pass on without logging it."""
        reasoning = {"reasoning_ended": reasoning_ended, "reasoning_parser_kwargs": reasoning_parser_kwargs}
        stream = self._generate(prompt, sampling_params, request_id, reasoning)
        self._streams.append(stream)
        return stream

    async def _generate(
        self, prompt: Any, sampling_params: Any, request_id: str, reasoning: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        self._active += 1
        self._idle.clear()
        try:
            tokens = prompt["prompt_token_ids"]
            self._run.prompted(len(tokens))
            if sampling_params.prompt_logprobs is not None and len(tokens) > _MAX_SCORED_PROMPT:
                raise ParametersRefused(
                    f"log-probabilities of a prompt are for at most {_MAX_SCORED_PROMPT} tokens", "prompt_logprobs"
                )
            if sampling_params.structured_outputs is not None:
                await self._grammars.check(sampling_params.structured_outputs)
                prompt = off_the_loop(prompt)
            turn = self._run.newcomer, self._crowds
            outputs = self._outputs(prompt, sampling_params, request_id, self._lora, *turn, **reasoning)
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    self._count(output, request_id)
                    yield output
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        except Exception as error:
            self.fail(error)
            raise GenerationError("see Tap.error") from error
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    def _count(self, output: Any, request_id: str) -> None:
        for piece in output.outputs:
            if piece.finish_reason not in _ENDS:
                raise EngineUnavailable(f"the engine aborted request {request_id} (it is stopping); send it again")
            self._run.answered(len(piece.token_ids), bool(piece.text or piece.finish_reason), piece.finish_reason)


def translated(error: Exception) -> Exception:
    """Returns our error for one of vLLM's; others as they are."""
    match error:
        case GraftError():
            return error
        case VLLMClientError():
            return refused(error)
        case EngineDeadError() | EngineGenerateError() | GenerationError():
            return EngineUnavailable("the engine died under this request; send it again")
        case jinja2.TemplateError():
            return PromptRefused(f"the chat template refused these messages: {error}")
        case ValueError():  # what vLLM raises for a wrong request where it has no class of its own for it yet
            return refused(error)
    return error


def refused(error: Exception) -> ParametersRefused:
    """What vLLM found wrong with a request, in its own words without its own names."""
    text = str(error.args[0]) if error.args else str(error)
    return ParametersRefused(text[:_TEXT_CHARS], str(getattr(error, "parameter", None) or ""))
