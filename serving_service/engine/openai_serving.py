"""OpenAI's chat and completions on the running engine: vLLM's own request models, renderers, parsers and handlers.

The handlers are vLLM's; for each request a copy of one is given a registry that knows the one resolved adapter and a `Tap`
in place of the engine. Owns what is set on a request before they see it: template, ends, cache salt, id. Does not own HTTP,
nor which fields a client may send (`api.http.fields`). vLLM's HTTP app and routes are not used.
"""

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMError
from vllm.renderers.online_renderer import OnlineRenderer

from serving_service.engine.grammars import Grammars
from serving_service.engine.openai_protocol import Events, Kind, Run
from serving_service.engine.openai_tap import Outputs, Tap, translated
from serving_service.engine.protocol import EngineUnavailable, LoraRef, ParametersRefused
from serving_service.engine.rendering import PromptRenderer

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

_REQUESTS = {Kind.CHAT: ChatCompletionRequest, Kind.COMPLETION: CompletionRequest}
_TEXT_CHARS = 500


class _OneModel:
    """The registry that a handler asks: it knows the model of its one request."""

    def __init__(self, name: str, lora: "LoRARequest | None") -> None:
        self._name = name
        self.lora_requests = {} if lora is None else {name: lora}
        self.base_model_paths: list[Any] = []

    def is_base_model(self, name: str) -> bool:
        return not self.lora_requests

    def model_name(self, lora: "LoRARequest | None" = None) -> str:
        return self._name


class _Failing:
    """Keeps a stream's error for the transport, which has the one form for all of them."""

    engine_client: Any

    def create_streaming_error_response(self, message: Any, *_: Any, **__: Any) -> str:
        self.engine_client.fail(message)
        return "{}"


class _Chat(_Failing, OpenAIServingChat):  # type: ignore[misc]
    pass


class _Completion(_Failing, OpenAIServingCompletion):  # type: ignore[misc]
    pass


class OpenAIServing:
    """Implements `engine.openai_protocol.OpenAIEngine`.

    Args:
        llm: the running engine.
        renderer: knows the templates and where they end.
        grammars: tries constraints out.
        lora_request: what vLLM calls a loaded adapter.
        tool_parser: name of vLLM's parser for this backbone's tool calls; empty refuses tools.
        outputs: `VllmEngine.outputs`.
    """

    def __init__(
        self,
        llm: "AsyncLLM",
        renderer: PromptRenderer,
        grammars: Grammars,
        lora_request: Callable[[LoraRef | None], "LoRARequest | None"],
        tool_parser: str,
        outputs: Outputs,
    ) -> None:
        self._llm, self._renderer, self._grammars, self._lora_request = llm, renderer, grammars, lora_request
        self._tool_parser, self._outputs = tool_parser, outputs
        # The parser costs time on every token, so only requests with tools go through it.
        self._plain, self._tools = self._chat(None), self._chat(tool_parser or None)
        self._completion = _Completion(
            llm, _OneModel("", None), online_renderer=self._online_renderer(None), request_logger=None
        )

    def _online_renderer(self, tool_parser: str | None) -> OnlineRenderer:
        return OnlineRenderer(
            self._llm.model_config,
            self._llm.renderer,
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
            trust_request_chat_template=True,  # it is ours: a client's never gets here
            enable_auto_tools=tool_parser is not None,
            tool_parser=tool_parser,
            tool_strict_level="parameter",  # what is called is always what the tool's schema says
        )

    def _chat(self, tool_parser: str | None) -> _Chat:
        return _Chat(
            self._llm,
            _OneModel("", None),
            "assistant",
            online_renderer=self._online_renderer(tool_parser),
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
            trust_request_chat_template=True,
            enable_auto_tools=tool_parser is not None,
            tool_parser=tool_parser,
            tool_strict_level="parameter",  # what is called is always what the tool's schema says
        )

    async def answer(self, kind: Kind, body: dict[str, Any], run: Run) -> str | Events:
        """Answers one request; see the protocol."""
        if body.get("tools") and not self._tool_parser:
            raise ParametersRefused("this service does not take tools for its backbone", "tools")
        request = self._request(kind, body, run)
        # vLLM's parsers of tool calls are made for a token at a time.
        bundles = not body.get("tools")
        tap = Tap(self._llm, self._lora_request(run.lora), self._grammars, run, self._outputs, bundles=bundles)
        base = self._completion if kind is Kind.COMPLETION else self._tools if body.get("tools") else self._plain
        handler = copy.copy(base)
        handler.models = _OneModel(request.model, self._lora_request(run.lora))
        handler.engine_client = tap
        create = handler.create_completion if kind is Kind.COMPLETION else handler.create_chat_completion
        events: _Events | None = None
        try:
            # Before the handler has it too: with tools, vLLM compiles it on the loop.
            if (own := request.extract_structured_outputs()) is not None:
                await self._grammars.check(own)
            result = await create(request)
            if isinstance(result, AsyncGenerator):
                begun = _Events(result, tap)
                await begun.begin()
                events = begun
                return events
        except Exception as error:
            raise _about(body, tap.error or translated(error)) from error
        finally:
            if events is None:
                await tap.close()
        if isinstance(result, ErrorResponse):
            raise _about(body, _error_of(result, tap))
        return str(result.model_dump_json())

    def _request(self, kind: Kind, body: dict[str, Any], run: Run) -> Any:
        try:
            request = _REQUESTS[kind].model_validate(body)
        except ValidationError as error:
            raise _invalid(error) from None
        except VLLMError as error:
            raise translated(error) from None
        if kind is Kind.COMPLETION:
            for ids in _token_prompts(request.prompt):
                self._renderer.check_known(ids)
        template = self._renderer.template(run.template)
        stop, stop_token_ids = ((), ()) if request.ignore_eos else self._renderer.ends(template)
        given = [request.stop] if isinstance(request.stop, str) else request.stop or []
        request.stop = [*given, *stop]
        request.stop_token_ids = [*(request.stop_token_ids or []), *stop_token_ids]
        request.request_id = run.request_id
        # Into the first block's hash: tenants cannot learn from timings what others sent. The same as over gRPC.
        request.cache_salt = run.tenant or None
        if kind is Kind.CHAT:
            request.chat_template = template
        return request


class _Events:
    """Implements `engine.openai_protocol.Events` over a handler's stream. A class, because a generator that was never
    begun would close nothing."""

    def __init__(self, stream: AsyncGenerator[str, None], tap: Tap) -> None:
        self._stream, self._tap = stream, tap
        self._first: str | None = None

    async def begin(self) -> None:
        """Waits for the first event, so that what is wrong with the request still has a status of its own."""
        self._first = await anext(self)

    def __aiter__(self) -> "_Events":
        return self

    async def __anext__(self) -> str:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        event = await anext(self._stream)
        if self._tap.error is not None:  # the event would be vLLM's form of it
            raise self._tap.error
        return event

    async def aclose(self) -> None:
        await self._stream.aclose()
        await self._tap.close()


def _token_prompts(prompt: str | list[Any]) -> list[list[int]]:
    """Those that are given as tokens: of one list, or of several; other prompts are texts."""
    rows = [prompt] if prompt and isinstance(prompt[0], int) else prompt
    return [row for row in rows if isinstance(row, list)]


def _about(body: dict[str, Any], error: BaseException) -> BaseException:
    """vLLM also names things that no client has sent, as `input_tokens`."""
    if isinstance(error, ParametersRefused) and error.field not in body:
        error.field = ""
    return error


def _error_of(response: Any, tap: Tap) -> BaseException:
    if tap.cancelled:
        return asyncio.CancelledError()
    if tap.error is not None:
        return tap.error
    error = response.error
    if error.code < 500:
        return ParametersRefused(str(error.message)[:_TEXT_CHARS], error.param or "")
    return EngineUnavailable("the engine gave no answer; send the request again")


def _invalid(error: ValidationError) -> ParametersRefused:
    """The first thing that is wrong, without the value: it may be long, and it is the tenant's."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in first["loc"] if not isinstance(part, str) or part.isidentifier()]
    field = path[0] if path else ""
    inner = first.get("ctx", {}).get("error")
    text = str(inner) if inner is not None else first["msg"]
    return ParametersRefused(f"{'.'.join(path[:4]) or 'the request'}: {text}"[:_TEXT_CHARS], field)
