"""The part of a Hugging Face tokenizer that the engine uses, as a type."""

from typing import Any, Protocol


class Tokenizer(Protocol):
    """What `AutoTokenizer` returns, as far as it is used here."""

    chat_template: str | None
    pad_token_id: int | None
    eos_token_id: int | None

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        """Tokenizes texts."""
        ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, chat_template: str, add_generation_prompt: bool, tokenize: bool
    ) -> Any:
        """Renders a conversation; text when `tokenize` is False."""
        ...
