"""What the OpenAI-compatible API asks of an engine, and the plain types that cross the border.

Owns the protocol. Imports nothing heavy. Does not own HTTP (`api.http`) nor any engine's front end (`openai_serving`).
"""

from enum import StrEnum
from typing import Any, Protocol

from serving_service.engine.protocol import LoraRef


class Kind(StrEnum):
    """The two calls that generate."""

    CHAT = "chat"
    COMPLETION = "completion"


class Run(Protocol):
    """A request that the core has opened; `core.generation.Opened` is one."""

    tenant: str
    lora: LoraRef | None
    template: str | None

    @property
    def request_id(self) -> str:
        """Names it in the engine."""
        ...

    @property
    def newcomer(self) -> bool:
        """See `Engine.generate`."""
        ...

    def crowds(self) -> bool:
        """See `Engine.generate`."""
        ...

    def prompted(self, tokens: int) -> None:
        """Takes the length of a prompt, before it goes to the engine."""
        ...

    def answered(self, tokens: int, visible: bool = True, finish_reason: str | None = None) -> None:
        """Takes the tokens of the answers, as they come, and how one ended."""
        ...

    def failed(self, error: BaseException) -> None:
        """Takes what ended the request."""
        ...


class Events(Protocol):
    """Server-sent events of a streamed answer."""

    def __aiter__(self) -> "Events": ...

    async def __anext__(self) -> str:
        """Returns the next one. Raises as `OpenAIEngine.answer` does."""
        ...

    async def aclose(self) -> None:
        """Stops the generation; when it returns, nothing of it runs in the engine. Idempotent."""
        ...


class OpenAIEngine(Protocol):
    """Answers requests in OpenAI's form."""

    async def answer(self, kind: Kind, body: dict[str, Any], run: Run) -> str | Events:
        """Answers one request.

        Args:
            kind: chat or completion.
            body: fields as OpenAI names them, checked by `api.http.fields`; with `stream` true the answer is one.
            run: what it runs on.

        Returns:
            The whole answer as JSON; or its events, the first of them there already, which the caller must close.

        Raises:
            ParametersRefused, PromptRefused: the request is wrong. EngineUnavailable: the engine is dead or stopping.
        """
        ...
