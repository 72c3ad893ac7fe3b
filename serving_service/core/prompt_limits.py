"""Which prompts are read at all: checked before anything is tokenized or waits.

Owns sizes and roles. Does not own what a model's length allows (the engine's).
"""

from dataclasses import dataclass

from serving_service.core.errors import InvalidRequest
from serving_service.core.prompt_size import text_bytes
from serving_service.engine.protocol import Prompt, TokenIds

ROLES = frozenset({"system", "user", "assistant"})


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """Of one request: bytes of its text, turns of a chat."""

    max_bytes: int
    max_messages: int

    def check(self, prompt: Prompt | None) -> Prompt:
        """Returns a prompt that may be read; raises InvalidRequest for another one."""
        if prompt is None:
            raise InvalidRequest("the prompt is missing")
        if isinstance(prompt, TokenIds):
            if not prompt.ids:
                raise InvalidRequest("tokens is empty")
            return prompt  # too many of them are the engine's to refuse
        messages = () if isinstance(prompt, str) else prompt
        size = text_bytes(prompt)
        if size > self.max_bytes:
            raise InvalidRequest(f"the prompt has {size} bytes, at most {self.max_bytes} are taken")
        if isinstance(prompt, str):
            if not prompt:
                raise InvalidRequest("prompt is empty")
            return prompt
        if not 1 <= len(messages) <= self.max_messages:
            raise InvalidRequest(f"chat has {len(messages)} messages; allowed: 1 to {self.max_messages}")
        for number, message in enumerate(messages):
            if message.role not in ROLES:
                raise InvalidRequest(f"chat.messages[{number}].role is unknown; allowed: {', '.join(sorted(ROLES))}")
        return prompt
