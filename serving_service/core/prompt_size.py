"""How many tokens a prompt probably has, before it can be rendered.

Owns the estimate and what it learns from prompts that were rendered. Does not own rendering.
"""

from serving_service.engine.protocol import Prompt, TokenIds

_USUAL = 0.25  # tokens a byte, of English text and usual tokenizers
_LEARNING = 0.05


class PromptSize:
    """Estimates by bytes, at a rate that follows the tokenizer and the tenants' languages."""

    def __init__(self) -> None:
        self._per_byte = _USUAL

    def tokens(self, prompt: Prompt) -> int:
        """Returns an estimate of at least 1; exact for tokens."""
        if isinstance(prompt, TokenIds):
            return len(prompt.ids)
        return self.of_bytes(text_bytes(prompt))

    def of_bytes(self, size: int) -> int:
        """Returns an estimate of at least 1 for a text of that many bytes."""
        return max(1, round(size * self._per_byte))

    def learn(self, prompt: Prompt, tokens: int) -> None:
        """Takes in what a prompt turned out to be."""
        if not isinstance(prompt, TokenIds) and (size := text_bytes(prompt)):
            self._per_byte += _LEARNING * (tokens / size - self._per_byte)


def text_bytes(prompt: Prompt) -> int:
    """Bytes of a prompt's text in UTF-8, without what a template adds; 0 for tokens."""
    if isinstance(prompt, TokenIds):
        return 0
    texts = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
    return sum(len(text.encode()) for text in texts)
