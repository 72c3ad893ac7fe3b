"""Rows into token ids: the chat template, and which stretches of the result the loss counts.

Owns what the model sees. A pure function of row, tokenizer, template and length, in bounded memory: rows come and go in
blocks. Imports no torch, so that inspecting a data set is cheap. Does not own storing the result (`examples`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from graftwork.template import DEFAULT_CHAT_TEMPLATE
from trainer_service.core.rows import Row
from trainer_service.engine.tokenizer import Tokenizer

BLOCK_ROWS = 1024
BLOCK_CHARACTERS = 1 << 20
"""Rows are tokenized in blocks of at most so many, and of about so much text; a longer row is a block of its own."""


class TemplateMismatch(Exception):
    """The chat template's answer does not continue its own prompt, so that nothing can be supervised.

    Attributes:
        line: of the row.
    """

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line}: the chat template's answer does not continue its own prompt")
        self.line = line


@dataclass(frozen=True, slots=True)
class Rendered:
    """One row in tokens, cut to the wanted length."""

    row: Row
    ids: list[int]
    spans: list[tuple[int, int]]
    """Stretches [start, end) of `ids` that the loss counts, the end token among them; never the first token."""
    full_length: int
    """Tokens before the cut."""
    unsupervised_turns: int
    """Earlier assistant turns that the template rewrites later, so that they cannot be supervised."""

    @property
    def supervised(self) -> int:
        """Tokens that the loss counts."""
        return sum(end - start for start, end in self.spans)


def chat_template(tokenizer: Tokenizer) -> str:
    """Returns the one template used in training; it travels with the version so that serving renders alike."""
    return tokenizer.chat_template or DEFAULT_CHAT_TEMPLATE


def render(rows: Iterable[Row], tokenizer: Tokenizer, *, max_length: int) -> Iterator[Rendered]:
    """Renders and tokenizes rows, in order.

    Each stretch of prompt and of response is tokenized on its own: serving tokenizes the prompt alone and the model
    goes on from there, so a token that spans the border would never be seen again.

    Args:
        rows: checked rows.
        tokenizer: of the backbone.
        max_length: tokens kept of a row, from its start.

    Raises:
        TemplateMismatch: while iterating.
    """
    template = chat_template(tokenizer)
    for block in _blocks(rows):
        cut = [_segments(row, tokenizer, template) for row in block]
        texts = [text for segments, _ in cut for text, _ in segments]
        pieces = iter(tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"])
        for row, (segments, lost) in zip(block, cut, strict=True):
            ids: list[int] = []
            spans: list[tuple[int, int]] = []
            for _, wanted in segments:
                start = len(ids)
                ids += next(pieces)
                if wanted:
                    spans.append((start, len(ids)))
            yield Rendered(row, ids[:max_length], _within(spans, max_length), len(ids), lost)


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    block: list[Row] = []
    characters = 0
    for row in rows:
        block.append(row)
        characters += sum(len(turn.content) for turn in row.turns)
        if len(block) >= BLOCK_ROWS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _within(spans: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """Cuts spans to [1, length): nothing comes before the first token, so nothing predicts it."""
    cut = [(max(start, 1), min(end, length)) for start, end in spans]
    return [(start, end) for start, end in cut if start < end]


def _segments(row: Row, tokenizer: Tokenizer, template: str) -> tuple[list[tuple[str, bool]], int]:
    """Cuts the rendered row into (text, supervised) stretches.

    The last turn is always supervised. An earlier assistant turn is supervised where its rendering is a prefix of the
    whole one; some templates rewrite earlier turns (they drop reasoning), and then it stays prompt.
    """
    messages = [{"role": turn.role, "content": turn.content} for turn in row.turns]

    def rendered(count: int, *, prompt: bool) -> str:
        text: str = tokenizer.apply_chat_template(
            messages[:count], chat_template=template, add_generation_prompt=prompt, tokenize=False
        )
        return text

    # Templates end a turn with a newline after the end marker; generation has stopped by then.
    whole = rendered(len(messages), prompt=False).rstrip()
    segments: list[tuple[str, bool]] = []
    done = lost = 0
    for index, turn in enumerate(row.turns):
        if turn.role != "assistant":
            continue
        is_last = index == len(messages) - 1
        start = rendered(index, prompt=True)
        end = whole if is_last else rendered(index + 1, prompt=False).rstrip()
        if not (whole.startswith(end) and end.startswith(start) and len(start) >= done):
            if is_last:
                raise TemplateMismatch(row.line)
            lost += 1
            continue
        segments += [(whole[done : len(start)], False), (whole[len(start) : len(end)], True)]
        done = len(end)
    return segments, lost
