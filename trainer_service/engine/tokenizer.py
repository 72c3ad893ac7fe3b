"""The part of a Hugging Face tokenizer that the engine uses, as a type."""

from typing import Any, Protocol


class Tokenizer(Protocol):
    """What `AutoTokenizer` returns, as far as it is used here."""

    chat_template: str | None
    pad_token_id: int | None
    eos_token_id: int | None

    unk_token_id: int | None
    all_special_tokens: list[str]

    def __len__(self) -> int:
        """Words of the vocabulary, added ones among them."""
        ...

    def __call__(
        self, text: list[str], *, add_special_tokens: bool, return_attention_mask: bool
    ) -> dict[str, list[list[int]]]:
        """Tokenizes texts."""
        ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """Makes text of tokens."""
        ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, chat_template: str, add_generation_prompt: bool, tokenize: bool
    ) -> Any:
        """Renders a conversation; text when `tokenize` is False."""
        ...
