"""Rows of a data set: reading JSONL and Parquet, and the checks that every row passes before it is accepted.

Used at upload by the service and again by the worker, so both see the same rows. Owns no tokenizer: what a row becomes
in tokens is `engine.data`'s business. Messages name lines and fields, never the rows' text.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.template import MARKER, user_content
from trainer_service.core.errors import InvalidRows

FORMATS = ("jsonl", "parquet")
MAX_ROW_BYTES = 1 << 20
"""Of one JSONL line."""
SHOWN_PROBLEMS = 20
"""Wrong lines named in one error; the rest is only counted."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: role is system, user or assistant; content has its trailing white space cut."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation, ending with an assistant's turn."""

    line: int
    """Line of the JSONL file or row of the Parquet file, from 1."""
    turns: tuple[Turn, ...]


_SURROGATE = re.compile("[\ud800-\udfff]")


class _Wrong(Exception):
    """A row's problem, in words without the row's text."""


def read_rows(path: Path, file_format: str) -> Iterator[Row]:
    """Reads and checks all rows; only at the end is it sure that none was wrong.

    Args:
        path: the file.
        file_format: one of FORMATS.

    Yields:
        The rows that are right.

    Raises:
        InvalidRows: at the end, with the first SHOWN_PROBLEMS wrong lines, or because there are no rows at all.
    """
    problems: list[str] = []
    right = wrong = 0
    for line, raw in _raw_rows(path, file_format):
        try:
            row = Row(line, _turns(_parsed(raw)))
        except _Wrong as problem:
            wrong += 1
            if len(problems) < SHOWN_PROBLEMS:
                problems.append(f"line {line}: {problem}")
            continue
        right += 1
        yield row
    if wrong:
        more = f"; and {wrong - len(problems)} more" if wrong > len(problems) else ""
        raise InvalidRows(f"{wrong} of {wrong + right} rows are wrong; {'; '.join(problems)}{more}")
    if not right:
        raise InvalidRows("the data set holds no rows; send one JSON object a line")


def _raw_rows(path: Path, file_format: str) -> Iterator[tuple[int, bytes | dict[str, Any]]]:
    if file_format == "jsonl":
        yield from _jsonl(path)
    elif file_format == "parquet":
        yield from _parquet(path)
    else:
        raise InvalidRows(f"unknown data-set format '{file_format}'; use one of {', '.join(FORMATS)}")


def _jsonl(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if line == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)  # Windows editors write one
            if raw.strip():
                yield line, raw


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa  # here: only Parquet needs it, and it costs a quarter of a second
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        line = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                line += 1
                yield line, row
    except (pa.ArrowException, OSError) as error:
        raise InvalidRows(f"not a readable Parquet file ({type(error).__name__})") from error


def _parsed(raw: bytes | dict[str, Any]) -> dict[str, Any]:
    if isinstance(raw, dict):
        return raw
    if len(raw) > MAX_ROW_BYTES:
        raise _Wrong(f"longer than {MAX_ROW_BYTES} bytes")
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _Wrong("not UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise _Wrong(f"not JSON{where}") from error
    if not isinstance(value, dict):
        raise _Wrong("not a JSON object")
    return value


def _turns(row: dict[str, Any]) -> tuple[Turn, ...]:
    if row.get("messages") is not None:
        return _chat(row["messages"])
    instruction = _text(row, "instruction")
    given = row.get("input")
    extra = "" if given is None else _clean(given, "input")
    return Turn("user", user_content(instruction, extra)), Turn("assistant", _text(row, "response"))


def _chat(messages: Any) -> tuple[Turn, ...]:
    if not isinstance(messages, list) or not messages:
        raise _Wrong("'messages' is not a list of messages")
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
            raise _Wrong(f"messages[{index}] needs a role of system, user or assistant")
        turns.append(Turn(str(message["role"]), _text(message, "content")))
    spoken = [turn.role for turn in turns[1 if turns[0].role == "system" else 0 :]]
    if len(spoken) % 2 or spoken != ["user", "assistant"] * (len(spoken) // 2) or not spoken:
        raise _Wrong(
            "'messages' must alternate user and assistant after an optional system turn, ending with assistant"
        )
    return tuple(turns)


def _text(holder: dict[str, Any], field: str) -> str:
    if holder.get(field) is None:
        raise _Wrong(f"field '{field}' is missing")
    text = _clean(holder[field], field)
    if not text.strip():
        raise _Wrong(f"field '{field}' is empty")
    return text


def _clean(value: Any, field: str) -> str:
    """Normalises newlines and cuts trailing white space; refuses text that went through a template already."""
    if not isinstance(value, str):
        raise _Wrong(f"field '{field}' is not text")
    if _SURROGATE.search(value):  # JSON can escape half a character; no tokenizer takes it
        raise _Wrong(f"field '{field}' holds half of a surrogate pair, which is no character")
    text = value.replace("\r\n", "\n").replace("\r", "\n").rstrip()
    found = MARKER.search(text)
    if found:
        raise _Wrong(f"field '{field}' holds the template marker {found.group()!r}; send plain text")
    return text
