"""What the model sees: response-only labels with the end token, an even split, batches that repeat."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_service.core.rows import Row, Turn
from trainer_service.engine import data
from trainer_service.engine.backbone import load_tokenizer
from trainer_service.engine.errors import UnusableData


def row(*turns: str, line: int = 1) -> Row:
    roles = ["user", "assistant"] * len(turns)
    return Row(line, tuple(Turn(role, text) for role, text in zip(roles, turns, strict=False)))


def supervised_text(example: data.Example, tokenizer: data.Tokenizer) -> str:
    return tokenizer.decode(example.ids[example.supervised], skip_special_tokens=False)  # type: ignore[attr-defined]


def test_only_the_response_and_its_end_are_supervised(miniature: Path) -> None:
    tokenizer = load_tokenizer(miniature)
    (example,) = data.encode([row("say hi", "Hi!")], tokenizer, max_length=100).examples
    assert supervised_text(example, tokenizer) == "Hi!<|end|>"
    whole = tokenizer.decode(example.ids, skip_special_tokens=False)  # type: ignore[attr-defined]
    assert whole == "<|user|>\nsay hi<|end|>\n<|assistant|>\nHi!<|end|>"


def test_every_assistant_turn_is_supervised(miniature: Path) -> None:
    tokenizer = load_tokenizer(miniature)
    (example,) = data.encode([row("a", "one", "b", "two")], tokenizer, max_length=100).examples
    assert supervised_text(example, tokenizer) == "one<|end|>two<|end|>"


def test_a_template_that_rewrites_earlier_turns_supervises_the_last(miniature: Path) -> None:
    tokenizer = load_tokenizer(miniature)
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>\n"
        "{{ m.content if m.role == 'user' or loop.last else 'gone' }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    encoded = data.encode([row("a", "one", "b", "two")], tokenizer, max_length=100)
    assert supervised_text(encoded.examples[0], tokenizer) == "two<|end|>"
    assert encoded.unsupervised_turns == 1


def test_cut_rows_are_counted_and_lost_rows_refused(miniature: Path) -> None:
    tokenizer = load_tokenizer(miniature)
    rows = [row("x", "a long answer", line=1), row("y", "ok", line=2)]
    encoded = data.encode(rows, tokenizer, max_length=14)
    assert encoded.truncated == 1
    assert len(encoded.examples[0].ids) == 14
    with pytest.raises(UnusableData, match=r"line\(s\) 1, 2"):
        data.encode(rows, tokenizer, max_length=5)


def test_collate_points_each_position_at_its_next_token(miniature: Path) -> None:
    tokenizer = load_tokenizer(miniature)
    rows = [row("q", "ab"), row("longer question", "c")]
    examples = data.encode(rows, tokenizer, max_length=100).examples
    batch = data.collate(examples, [0, 1], pad_id=0)
    assert batch.ids.shape == (2, max(example.length for example in examples))
    assert batch.tokens == sum(example.length for example in examples)
    longest = batch.ids.shape[1]
    for position, target in zip(batch.positions.tolist(), batch.targets.tolist(), strict=True):
        example = examples[position // longest]
        assert example.ids[position % longest + 1] == target
        assert example.supervised[position % longest + 1]
    assert len(batch.targets) == sum(int(example.supervised.sum()) for example in examples)


@given(count=st.integers(2, 300), part=st.floats(0.01, 0.5))
def test_the_split_is_a_partition_and_repeats(count: int, part: float) -> None:
    held_out = max(1, int(count * part))
    train, held = data.split(count, held_out, "digest")
    assert sorted(train + held) == list(range(count))
    assert len(held) == held_out
    assert data.split(count, held_out, "digest") == (train, held)


def test_the_split_follows_the_data() -> None:
    assert data.split(100, 10, "one") != data.split(100, 10, "other")


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=200), batch=st.integers(1, 20), epoch=st.integers(0, 5)
)
def test_an_epoch_sees_every_row_once_and_repeats(lengths: list[int], batch: int, epoch: int) -> None:
    steps = data.epoch_steps(lengths, batch_rows=batch, seed=3, epoch=epoch)
    assert sorted(index for step in steps for index in step) == list(range(len(lengths)))
    assert all(len(step) <= batch for step in steps)
    assert len(steps) == -(-len(lengths) // batch)
    assert data.epoch_steps(lengths, batch_rows=batch, seed=3, epoch=epoch) == steps


def test_epochs_differ() -> None:
    lengths = list(range(1, 101))
    first = data.epoch_steps(lengths, batch_rows=8, seed=0, epoch=0)
    assert first != data.epoch_steps(lengths, batch_rows=8, seed=0, epoch=1)
