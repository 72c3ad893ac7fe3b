"""Rows are accepted whole or refused with their line numbers, and never quoted."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer_service.core import rows as reading
from trainer_service.core.errors import InvalidRows
from trainer_service.core.rows import Row, Turn


def read_rows(path: Path, file_format: str) -> list[Row]:
    return list(reading.read_rows(path, file_format))


def write(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


GOOD = {"instruction": "greet", "input": "name:Ann", "response": "Hello Ann"}


def test_both_row_shapes_become_turns(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}
    chat["messages"].append({"role": "assistant", "content": "a  \r\n"})
    rows = read_rows(write(tmp_path, GOOD, "", chat), "jsonl")
    assert rows[0].turns == (Turn("user", "greet\nname:Ann"), Turn("assistant", "Hello Ann"))
    assert rows[1].turns == (Turn("system", "s"), Turn("user", "u"), Turn("assistant", "a"))
    assert [row.line for row in rows] == [1, 3]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{not json", "not JSON"),
        ("[1]", "not a JSON object"),
        ({"instruction": "x"}, "'response' is missing"),
        ({"response": "x"}, "'instruction' is missing"),
        ({"instruction": "x", "response": " \n "}, "'response' is empty"),
        ({"instruction": "x", "response": 3}, "not text"),
        ({"instruction": "x", "response": "secret<|im_end|>"}, "template marker"),
        ({"instruction": "### Instruction: secret", "response": "y"}, "template marker"),
        ({"instruction": "x", "input": "[INST] secret", "response": "y"}, "template marker"),
        ({"messages": []}, "not a list of messages"),
        ({"messages": [{"role": "user", "content": "secret"}]}, "ending with assistant"),
        ({"messages": [{"role": "tool", "content": "secret"}]}, "needs a role"),
    ],
)
def test_a_wrong_row_is_named_by_line_and_not_quoted(tmp_path: Path, bad: object, reason: str) -> None:
    with pytest.raises(InvalidRows, match=reason) as caught:
        read_rows(write(tmp_path, GOOD, bad, GOOD), "jsonl")
    assert "1 of 3 rows are wrong; line 2: " in str(caught.value)
    assert "secret" not in str(caught.value)


def test_many_wrong_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InvalidRows, match=r"30 of 31 rows are wrong; lines 2, 3, .*, 11 and 20 more: field 'response'"):
        read_rows(write(tmp_path, GOOD, *['{"instruction": "x"}'] * 30), "jsonl")


def test_no_rows_at_all(tmp_path: Path) -> None:
    with pytest.raises(InvalidRows, match="no rows"):
        read_rows(write(tmp_path, "", ""), "jsonl")


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"instruction": "\xff", "response": "x"}\n')
    with pytest.raises(InvalidRows, match="line 1: not UTF-8"):
        read_rows(path, "jsonl")


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD, {**GOOD, "input": None}]), path)
    same = read_rows(write(tmp_path, GOOD, {**GOOD, "input": None}), "jsonl")
    assert read_rows(path, "parquet") == same


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(InvalidRows, match="Parquet"):
        read_rows(write(tmp_path, GOOD), "parquet")


def test_a_byte_order_mark_before_the_first_row_is_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{json.dumps(GOOD)}\r\n{json.dumps(GOOD)}\r\n".encode())
    first, second = read_rows(path, "jsonl")
    assert first.turns == second.turns


def test_half_a_surrogate_pair_is_refused_at_the_door(tmp_path: Path) -> None:
    with pytest.raises(InvalidRows, match="line 2: field 'response' holds half of a surrogate pair"):
        read_rows(write(tmp_path, GOOD, r'{"instruction": "x", "response": "\ud83d"}'), "jsonl")
    whole = read_rows(write(tmp_path, r'{"instruction": "x", "response": "\ud83d\ude00"}'), "jsonl")
    assert whole[0].turns[1].content == "\U0001f600"
