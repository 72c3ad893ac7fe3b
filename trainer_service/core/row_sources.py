"""Files of rows: JSON lines and Parquet, read in bounded memory, one row at a time, each with its line number.

Owns bytes: encodings, line ends, what is not JSON or not Parquet at all. Does not own what a row must hold (`rows`). A file of
any size and content is read to its end or refused; nothing here raises for what a file holds.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from trainer_service.core.findings import Findings

Raw = dict[str, Any]
FORMATS = ("jsonl", "parquet")
FIELDS = ("instruction", "input", "response", "messages")
"""What is read of a row; other fields are counted and left alone."""
MAX_ROW_BYTES = 1 << 20
"""Of one line or row."""
_HEAD = 4096
_REPORT_EVERY = 1024  # rows
_BATCH_ROWS = 64  # of Parquet: as many of the largest rows are in memory at once

Progress = Callable[[int, int], None]
"""Called now and then with (done, all): bytes of a JSONL file, rows of a Parquet file."""

_MAGIC = {
    b"PAR1": "a Parquet file (give it the ending .parquet)",
    b"\x1f\x8b": "compressed with gzip",
    b"PK\x03\x04": "a ZIP archive",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
}
_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_LONE_HIGH_BYTE = re.compile(rb"(?<![\x80-\xff])[\xa0-\xff](?![\x80-\xff])")
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")


def unheard(done: int, total: int) -> None:
    """The progress of work that nobody watches."""


def raw_rows(
    path: Path, file_format: str, findings: Findings, progress: Progress = unheard
) -> Iterator[tuple[int, Raw]]:
    """Yields (line, object) for every line or row that holds an object; says the rest to `findings`.

    Args:
        path: the file.
        file_format: one of FORMATS.
        findings: is told of what could not be read, and counts those rows as wrong.
        progress: is told how far it is.
    """
    if file_format == "parquet":
        return _parquet(path, findings, progress)
    return _jsonl(path, findings, progress)


def _jsonl(path: Path, findings: Findings, progress: Progress) -> Iterator[tuple[int, Raw]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if _is_no_jsonl(head, findings):
            return
        file.seek(0)
        if head.startswith(codecs.BOM_UTF8):  # Windows editors write one
            file.seek(len(codecs.BOM_UTF8))
            findings.add("bom", 1)
        line = 0
        while raw := file.readline(MAX_ROW_BYTES + 1):
            line += 1
            if not line % _REPORT_EVERY:
                progress(file.tell(), size)
            if len(raw) > MAX_ROW_BYTES:
                _skip_line(file, raw)
                findings.add("row_too_long", line, f"{MAX_ROW_BYTES >> 20} MiB")
                findings.wrong_rows += 1
                continue
            if raw.endswith(b"\r\n"):
                findings.add("windows_newlines", line)
            if not raw.strip():
                findings.add("blank_lines", line)
                continue
            value = _parsed(raw, line, findings)
            if value is None:
                findings.wrong_rows += 1
            else:
                yield line, value


def _is_no_jsonl(head: bytes, findings: Findings) -> bool:
    """Says whether the file is something else altogether, which would make every line a finding of its own."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            findings.add("encoding", subject=encoding)
            return True
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            findings.add("file_kind", subject=kind)
            return True
    if len(head) >= 4 and max(head[0::2].count(0), head[1::2].count(0)) > len(head) // 5:
        # ASCII text in UTF-16 has a zero in every other byte; JSON never holds one.
        findings.add("encoding", subject="UTF-16")
        return True
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if re.match(rb"\[\s*(?:\{|$)", text):
        findings.add("json_array", 1)
        return True
    if re.match(rb"\{[ \t]*[\r\n]", text):
        findings.add("json_pretty", 1)
        return True
    return False


def _skip_line(file: IO[bytes], raw: bytes) -> None:
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(MAX_ROW_BYTES)


def _parsed(raw: bytes, line: int, findings: Findings) -> Raw | None:
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        findings.add("not_utf8", line, _guess(raw), detail=f"byte {error.start + 1} of the line")
        return None
    except json.JSONDecodeError as error:
        if b"\r" in raw.rstrip():
            findings.add("cr_newlines", line)
        else:
            findings.add("not_json", line, detail=f"{error.msg} at column {error.colno}")
        return None
    except (ValueError, RecursionError):  # a number of thousands of digits; brackets within brackets
        findings.add("not_json", line, detail="a value is too large or too deeply nested")
        return None
    if not isinstance(value, dict):
        findings.add("not_object", line)
        return None
    return value


def _guess(raw: bytes) -> str:
    """Names the encoding that bytes which are no UTF-8 are likely to have."""
    high, lone = len(_HIGH_BYTE.findall(raw)), len(_LONE_HIGH_BYTE.findall(raw))
    return ": Latin-1 or Windows-1252, it seems" if lone * 2 > high else ""


def _parquet(path: Path, findings: Findings, progress: Progress) -> Iterator[tuple[int, Raw]]:
    import pyarrow as pa  # here: only Parquet needs it, and it costs a third of a second
    import pyarrow.parquet as pq

    line = 0
    try:
        # buffer_size: pages are read as they are needed, and not a whole row group at once.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            columns, rows = file.schema_arrow.names, file.metadata.num_rows
            wanted = [name for name in FIELDS if name in columns]
            if not {"instruction", "response"} <= set(wanted) and "messages" not in wanted:
                findings.add("columns", subject=", ".join(map(str, columns))[:200] or "none", count=rows)
                findings.wrong_rows += rows
                return
            for name in columns:
                if name not in FIELDS:
                    findings.add("ignored_fields", subject=name[:40], count=rows)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
                progress(line, rows)
                for row in _batch_rows(batch, findings, line):
                    line += 1
                    if row is not None:
                        yield line, row
    except (pa.ArrowException, OSError, ValueError) as error:
        findings.add("not_parquet", line + 1 if line else 0, subject=type(error).__name__)


def _batch_rows(batch: Any, findings: Findings, before: int) -> Iterator[Raw | None]:
    """Yields a batch's rows as objects; None for one whose text is not UTF-8, which Parquet does not check."""
    try:
        rows: list[Raw | None] = list(batch.to_pylist())
    except UnicodeDecodeError:
        rows = []
        for at in range(batch.num_rows):
            try:
                rows += batch.slice(at, 1).to_pylist()
            except UnicodeDecodeError:
                findings.add("not_utf8", before + at + 1)
                findings.wrong_rows += 1
                rows.append(None)
    for at, row in enumerate(rows):
        if row is not None and _characters(row) > MAX_ROW_BYTES:
            findings.add("row_too_long", before + at + 1, f"{MAX_ROW_BYTES >> 20} MiB")
            findings.wrong_rows += 1
            row = None
        yield row


def _characters(row: Raw) -> int:
    texts = [value for value in row.values() if isinstance(value, str)]
    for message in row.get("messages") or ():
        if isinstance(message, dict):
            texts += [value for value in message.values() if isinstance(value, str)]
    return sum(map(len, texts))
