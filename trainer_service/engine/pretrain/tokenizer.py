"""The default backbone's tokenizer: one token per printable ASCII character, plus the template's markers.

One character per token makes copying a string that was never seen a matter of attention alone, which is what lets a
model this small be useful. What is outside ASCII becomes `<|unk|>`.
"""

import string
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from graftwork.template import DEFAULT_CHAT_TEMPLATE, END_OF_TURN

PAD = "<|pad|>"
UNKNOWN = "<|unk|>"
MARKERS = (PAD, END_OF_TURN, UNKNOWN, "<|system|>", "<|user|>", "<|assistant|>")
CHARACTERS = string.printable[:95] + "\n"
"""The 95 printable ASCII characters and the newline."""


def vocabulary() -> dict[str, int]:
    """Returns token -> id; markers first, so that `<|pad|>` is 0 and `<|end|>` is 1."""
    return {token: index for index, token in enumerate((*MARKERS, *CHARACTERS))}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Builds the tokenizer with the project's chat template as its own."""
    core = Tokenizer(WordLevel(vocabulary(), unk_token=UNKNOWN))
    core.pre_tokenizer = Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END_OF_TURN,
        unk_token=UNKNOWN,
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Writes the tokenizer's files into a backbone folder."""
    build_tokenizer().save_pretrained(folder)
