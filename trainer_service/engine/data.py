"""Rows into token batches: rendering, labels, split, grouping by length.

Owns what the model sees. Everything here is a pure function of rows, tokenizer, recipe and data digest, so a job that
is killed and resumed meets the same batches. Does not own reading files (`core.rows`) or the loss (`loss`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from graftwork.template import DEFAULT_CHAT_TEMPLATE
from trainer_service.core.rows import Row
from trainer_service.engine.errors import UnusableData
from trainer_service.engine.tokenizer import Tokenizer

GROUP_STEPS = 50
"""Rows of this many steps are sorted by length together: little padding, and still random batches."""


@dataclass(frozen=True, slots=True)
class Example:
    """One rendered row. `ids` and `supervised` have the same length; the first token is never supervised."""

    ids: torch.Tensor
    """int64 [T]"""
    supervised: torch.Tensor
    """bool [T]: tokens that the loss counts, the end token among them."""

    @property
    def length(self) -> int:
        """Tokens that go through the model; the last one is only ever predicted."""
        return len(self.ids) - 1


@dataclass(frozen=True, slots=True)
class Encoded:
    """All rows as examples, and how many were cut."""

    examples: list[Example]
    truncated: int
    unsupervised_turns: int
    """Earlier assistant turns that the template rewrites later, so that they cannot be supervised."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass: [rows, longest] ids, and where in the flattened [rows * longest] a token is predicted."""

    ids: torch.Tensor
    positions: torch.Tensor
    """int64 [N] into the flattened hidden states."""
    targets: torch.Tensor
    """int64 [N]: the token to predict at each position."""
    tokens: int
    """Real tokens, padding not counted."""


def chat_template(tokenizer: Tokenizer) -> str:
    """Returns the one template used in training; it travels with the version so that serving renders alike."""
    return tokenizer.chat_template or DEFAULT_CHAT_TEMPLATE


def encode(rows: Sequence[Row], tokenizer: Tokenizer, *, max_length: int) -> Encoded:
    """Renders rows and marks the assistant's tokens as supervised.

    Each stretch of prompt and of response is tokenized on its own: serving tokenizes the prompt alone and the model
    goes on from there, so a token that spans the border would never be seen again.

    Args:
        rows: checked rows.
        tokenizer: of the backbone.
        max_length: tokens kept of a row, from its start.

    Raises:
        UnusableData: a row has no supervised token left; the message names lines.
    """
    template = chat_template(tokenizer)
    parts: list[list[tuple[str, bool]]] = []
    lost_turns = 0
    for row in rows:
        segments, lost = _segments(row, tokenizer, template)
        parts.append(segments)
        lost_turns += lost
    texts = [text for segments in parts for text, _ in segments]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    examples: list[Example] = []
    truncated = 0
    empty: list[int] = []
    for row, segments in zip(rows, parts, strict=True):
        tokens: list[int] = []
        marks: list[bool] = []
        for _, wanted in segments:
            piece = next(ids)
            tokens += piece
            marks += [wanted] * len(piece)
        truncated += len(tokens) > max_length
        marks[:1] = [False]  # nothing comes before the first token, so nothing predicts it
        if not any(marks[:max_length]):
            empty.append(row.line)
            continue
        examples.append(Example(torch.tensor(tokens[:max_length]), torch.tensor(marks[:max_length])))
    if empty:
        raise UnusableData(
            f"{len(empty)} row(s) have no response token within max_length = {max_length}: "
            f"line(s) {', '.join(map(str, empty[:20]))}; raise max_length or shorten the prompts"
        )
    return Encoded(examples, truncated, lost_turns)


def _segments(row: Row, tokenizer: Tokenizer, template: str) -> tuple[list[tuple[str, bool]], int]:
    """Cuts the rendered row into (text, supervised) stretches.

    The last turn is always supervised. An earlier assistant turn is supervised where its rendering is a prefix of the
    whole one; some templates rewrite earlier turns (they drop reasoning), and then it stays prompt.
    """
    messages = [{"role": turn.role, "content": turn.content} for turn in row.turns]

    def render(count: int, *, prompt: bool) -> str:
        text: str = tokenizer.apply_chat_template(
            messages[:count], chat_template=template, add_generation_prompt=prompt, tokenize=False
        )
        return text

    # Templates end a turn with a newline after the end marker; generation has stopped by then.
    whole = render(len(messages), prompt=False).rstrip()
    segments: list[tuple[str, bool]] = []
    done = lost = 0
    for index, turn in enumerate(row.turns):
        if turn.role != "assistant":
            continue
        start = render(index, prompt=True)
        end = render(index + 1, prompt=False).rstrip()
        if not (whole.startswith(end) and end.startswith(start) and len(start) >= done):
            if index == len(messages) - 1:
                raise UnusableData(f"line {row.line}: the chat template's answer does not continue its own prompt")
            lost += 1
            continue
        segments += [(whole[done : len(start)], False), (whole[len(start) : len(end)], True)]
        done = len(end)
    return segments, lost


def split(count: int, held_out: int, data_digest: str) -> tuple[list[int], list[int]]:
    """Splits row numbers 0..count-1 into (train, held out), the same way for the same data everywhere.

    Args:
        count: rows.
        held_out: how many are held out.
        data_digest: sha256 of the data set; the order is that of sha256(digest:row).
    """
    order = sorted(range(count), key=lambda row: hashlib.sha256(f"{data_digest}:{row}".encode()).digest())
    return sorted(order[held_out:]), sorted(order[:held_out])


def epoch_steps(lengths: Sequence[int], *, batch_rows: int, seed: int, epoch: int) -> list[list[int]]:
    """Returns, for each optimizer step of an epoch, the rows it sees; a pure function of its arguments.

    Rows are shuffled, sorted by length inside groups of GROUP_STEPS steps, cut into steps, and the steps shuffled.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    steps: list[list[int]] = []
    for start in range(0, len(order), GROUP_STEPS * batch_rows):
        group = sorted(order[start : start + GROUP_STEPS * batch_rows], key=lambda row: lengths[row])
        steps += [group[at : at + batch_rows] for at in range(0, len(group), batch_rows)]
    return [steps[at] for at in torch.randperm(len(steps), generator=generator).tolist()]


def micro_batches(examples: Sequence[Example], rows: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Cuts rows into passes of at most `max_tokens` padded tokens (one row at least), shortest rows first."""
    taken: list[int] = []
    for row in sorted(rows, key=lambda row: examples[row].length):
        if taken and (len(taken) + 1) * examples[row].length > max_tokens:
            yield taken
            taken = []
        taken.append(row)
    if taken:
        yield taken


def collate(examples: Sequence[Example], rows: Sequence[int], pad_id: int) -> Batch:
    """Pads rows on the right to the longest of them.

    No attention mask is made: under causal attention a token never looks right, so padding on the right reaches only
    padded positions, and those are never in `positions`.
    """
    chosen = [examples[row] for row in rows]
    longest = max(example.length for example in chosen)
    ids = torch.full((len(chosen), longest), pad_id)
    positions: list[torch.Tensor] = []
    for at, example in enumerate(chosen):
        ids[at, : example.length] = example.ids[:-1]
        positions.append(example.supervised[1:].nonzero().squeeze(1) + at * longest)
    targets = torch.cat([example.ids[1:][example.supervised[1:]] for example in chosen])
    return Batch(ids, torch.cat(positions), targets, sum(example.length for example in chosen))
