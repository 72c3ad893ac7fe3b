"""What the model sees: response-only labels with the end token; encoded once, kept whole, read without a copy."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer_service.core.rows import Row, Turn
from trainer_service.engine import data
from trainer_service.engine.backbone import load_tokenizer
from trainer_service.engine.batches import Example
from trainer_service.engine.errors import UnusableData
from trainer_service.engine.tokenizer import Tokenizer


def row(*turns: str, line: int = 1) -> Row:
    roles = ["user", "assistant"] * len(turns)
    return Row(line, tuple(Turn(role, text) for role, text in zip(roles, turns, strict=False)))


def supervised_text(example: Example, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(example.ids[example.supervised].tolist(), skip_special_tokens=False)


def test_only_the_response_and_its_end_are_supervised(miniature: Path) -> None:
    tokenizer = load_tokenizer(miniature)
    (example,) = data.encode([row("say hi", "Hi!")], tokenizer, max_length=100).examples
    assert supervised_text(example, tokenizer) == "Hi!<|end|>"
    whole = tokenizer.decode(example.ids.tolist(), skip_special_tokens=False)
    assert whole == "<|user|>\nsay hi<|end|>\n<|assistant|>\nHi!<|end|>"


def test_every_assistant_turn_is_supervised(miniature: Path) -> None:
    tokenizer = load_tokenizer(miniature)
    (example,) = data.encode([row("a", "one", "b", "two")], tokenizer, max_length=100).examples
    assert supervised_text(example, tokenizer) == "one<|end|>two<|end|>"


REWRITING = (
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{{ m.content if m.role == 'user' or loop.last else 'gone' }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def test_a_template_that_rewrites_earlier_turns_supervises_the_last(miniature: Path) -> None:
    tokenizer = load_tokenizer(miniature)
    tokenizer.chat_template = REWRITING
    encoded = data.encode([row("a", "one", "b", "two")], tokenizer, max_length=100)
    assert supervised_text(encoded.examples[0], tokenizer) == "two<|end|>"
    assert encoded.unsupervised_turns == 1


def test_a_template_whose_answer_does_not_continue_its_prompt_is_refused(miniature: Path) -> None:
    tokenizer = load_tokenizer(miniature)
    tokenizer.chat_template = "{% if add_generation_prompt %}prompt{% else %}answer{% endif %}"
    with pytest.raises(UnusableData, match="line 7: the chat template"):
        data.encode([row("a", "b", line=7)], tokenizer, max_length=100)


def test_cut_rows_are_counted_and_lost_rows_refused(miniature: Path) -> None:
    tokenizer = load_tokenizer(miniature)
    rows = [row("x", "a long answer", line=1), row("y", "ok", line=2)]
    encoded = data.encode(rows, tokenizer, max_length=14)
    assert encoded.truncated == 1
    assert len(encoded.examples[0].ids) == 14
    with pytest.raises(UnusableData, match=r"line\(s\) 1, 2"):
        data.encode(rows, tokenizer, max_length=5)


def source(file: Path, miniature: Path, digest: str = "d") -> data.Source:
    return data.Source(file, "jsonl", digest, miniature)


def write(file: Path, count: int, start: int = 0) -> Path:
    rows = [{"instruction": f"ask {at}", "response": "x" * (at % 7 + 1)} for at in range(start, start + count)]
    file.write_text("".join(json.dumps(item) + "\n" for item in rows))
    return file


def same(one: Example, other: Example) -> bool:
    return torch.equal(one.ids, other.ids) and torch.equal(one.supervised, other.supervised)


def test_rows_from_the_disk_are_the_rows_in_memory(miniature: Path, tmp_path: Path) -> None:
    """Over several record batches, so that every offset counts."""
    tokenizer = load_tokenizer(miniature)
    file = write(tmp_path / "rows.jsonl", 2500)
    encoded = data.encode_file(source(file, miniature), tokenizer, max_length=40, folder=tmp_path / "encoded")
    plain = data.encode(
        [row(f"ask {at}", "x" * (at % 7 + 1), line=at + 1) for at in range(2500)], tokenizer, max_length=40
    )
    assert len(encoded.examples) == 2500
    assert encoded.examples.lines.tolist() == list(range(1, 2501))
    assert encoded.examples.lengths.tolist() == [example.length for example in plain.examples]
    for at in (0, 1023, 1024, 1025, 2047, 2048, 2499, -1):
        assert same(encoded.examples[at], plain.examples[at])
    assert (encoded.tokens, encoded.supervised) == (plain.tokens, plain.supervised)
    assert encoded.tokens == sum(len(example.ids) for example in plain.examples)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.integers(0, 59), max_size=60))
def test_a_selection_holds_what_was_selected(miniature: Path, chosen: list[int]) -> None:
    import numpy as np

    rows = [row(f"ask {at}", "x" * (at % 7 + 1), line=at + 1) for at in range(60)]
    every = data.encode(rows, load_tokenizer(miniature), max_length=40).examples.select(np.arange(60)[::-1])
    some = every.select(np.array(chosen, dtype=np.int64))
    assert some.lines.tolist() == [60 - at for at in chosen]
    assert some.lengths.tolist() == [example.length for example in some]
    assert [same(example, every[at]) for example, at in zip(some, chosen, strict=True)] == [True] * len(chosen)


def test_what_an_attempt_encoded_serves_the_next_one(miniature: Path, tmp_path: Path) -> None:
    tokenizer, folder = load_tokenizer(miniature), tmp_path / "encoded"
    file = write(tmp_path / "rows.jsonl", 20)
    first = data.encode_file(source(file, miniature), tokenizer, max_length=40, folder=folder)
    file.unlink()  # not read again
    second = data.encode_file(source(file, miniature), tokenizer, max_length=40, folder=folder)
    assert [same(*pair) for pair in zip(first.examples, second.examples, strict=True)] == [True] * 20


@pytest.mark.parametrize("change", ["data", "length", "template"])
def test_other_data_length_or_template_is_encoded_anew(miniature: Path, tmp_path: Path, change: str) -> None:
    tokenizer, folder = load_tokenizer(miniature), tmp_path / "encoded"
    file = write(tmp_path / "rows.jsonl", 20)
    data.encode_file(source(file, miniature), tokenizer, max_length=40, folder=folder)
    write(file, 5)
    if change == "template":
        tokenizer.chat_template = REWRITING
    again = data.encode_file(
        source(file, miniature, "other" if change == "data" else "d"),
        tokenizer,
        max_length=41 if change == "length" else 40,
        folder=folder,
    )
    assert len(again.examples) == 5
    assert len(list(folder.iterdir())) == 1, "what nobody reads again does not stay on the disk"


def test_a_killed_encoding_leaves_nothing_that_counts_as_whole(miniature: Path, tmp_path: Path) -> None:
    tokenizer, folder = load_tokenizer(miniature), tmp_path / "encoded"
    file = write(tmp_path / "rows.jsonl", 20)
    (folder / "partial").mkdir(parents=True)
    (folder / "partial" / "rows.arrow").write_bytes(b"half of it")
    encoded = data.encode_file(source(file, miniature), tokenizer, max_length=40, folder=folder)
    assert len(encoded.examples) == 20
    assert not (folder / "partial").exists()
