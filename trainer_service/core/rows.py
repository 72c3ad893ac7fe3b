"""A row of a data set: what it must hold, and its normal form as turns.

Used at upload and again by the worker, so both see the same rows. Owns the fields and the normalisation (newlines, white
space at the end). Does not own bytes and files (`row_sources`) nor tokens (the engine's `rendering`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from graftwork.template import find_marker, user_content
from trainer_service.core.errors import InvalidRows
from trainer_service.core.findings import Findings
from trainer_service.core.row_sources import FIELDS, Progress, Raw, raw_rows, unheard

ROLES = ("system", "user", "assistant")
_FIELDS = frozenset(FIELDS)

# What other formats call our fields; naming the right one saves a look into the documentation.
_RENAMED = {
    "response": ("output", "completion", "answer", "target", "chosen"),
    "instruction": ("prompt", "question", "query"),
    "messages": ("conversations", "conversation", "chat", "dialogue"),
}


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

    @property
    def prompt_key(self) -> int:
        """64 bits that rows of one prompt share: everything before the last response, case and spacing aside.

        What a split must not tear apart. Two of a million different prompts share it with a chance of 3 in 10^8.
        """
        text = "\0".join(f"{turn.role}\0{turn.content}" for turn in self.turns[:-1])
        return _digest(" ".join(text.casefold().split()))

    @property
    def row_key(self) -> int:
        """64 bits that equal rows share."""
        return _digest("\0".join(f"{turn.role}\0{turn.content}" for turn in self.turns))


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def read_rows(
    path: Path, file_format: str, findings: Findings | None = None, progress: Progress = unheard
) -> Iterator[Row]:
    """Reads and checks all rows; only at the end is it sure that none was wrong.

    Args:
        path: the file.
        file_format: one of `row_sources.FORMATS`.
        findings: is told of everything; a caller that gives one looks at it at the end, and nothing is raised.
        progress: is told how far the reading is.

    Yields:
        The rows that are right.

    Raises:
        InvalidRows: at the end, when `findings` was not given: some row is wrong, or there is none.
    """
    collected = findings if findings is not None else Findings()
    right = 0
    for line, raw in raw_rows(path, file_format, collected, progress):
        row = parse(line, raw, collected)
        if row is None:
            collected.wrong_rows += 1
        else:
            right += 1
            yield row
    _conclude(right, collected)
    if findings is None and collected.has_errors:
        raise InvalidRows(right + collected.wrong_rows, collected.wrong_rows, collected.report())


def _conclude(right: int, findings: Findings) -> None:
    """Says what only shows at the end: no rows at all, and several templates in one file."""
    if not right and not findings.has_errors:
        findings.add("no_rows")
    families = findings.subjects("marker")
    if families and (right or len(families) > 1):
        seen = [f"{name} ({count}, first on line {line})" for name, (count, line) in families.items()]
        subject = ", ".join([*seen, *([f"none ({right})"] if right else [])])
        findings.add("mixed_templates", subject=subject, count=sum(count for count, _ in families.values()))


def parse(line: int, raw: Raw, findings: Findings) -> Row | None:
    """Makes a row of an object; says everything that is wrong with it, and returns None then."""
    field = _Field(line, findings)
    if raw.get("messages") is not None:
        if other := next((name for name in FIELDS[:3] if raw.get(name) is not None), ""):
            findings.add("both_shapes", line, f"'{other}'")
        turns = _chat(raw["messages"], field)
    else:
        turns = _instruction(raw, field)
    if field.trimmed:
        findings.add("trimmed", line)
    if not raw.keys() <= _FIELDS:
        for name in raw.keys() - _FIELDS - field.renamed:
            findings.add("ignored_fields", line, name[:40])
    return None if field.wrong or turns is None else Row(line, turns)


class _Field:
    """Takes texts out of one row, normalised; remembers whether anything was wrong."""

    def __init__(self, line: int, findings: Findings) -> None:
        self._line, self._findings = line, findings
        self.wrong = self.trimmed = False
        self.renamed: set[str] = set()

    def refuse(self, code: str, subject: str = "", detail: str = "") -> None:
        self.wrong = True
        self._findings.add(code, self._line, subject, detail=detail)

    def misnamed(self, found: str, name: str) -> None:
        self.renamed.add(found)
        self.refuse("renamed", f"'{found}' stands where '{name}' belongs")

    def clean(self, value: Any, name: str) -> str:
        """Returns text with \\n as its only newline and nothing white at its end."""
        if not isinstance(value, str):
            self.refuse("not_text", name)
            return ""
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can escape half a character; no tokenizer takes it
            self.refuse("surrogate", name)
            return ""
        text = value.rstrip()
        self.trimmed |= 0 < len(text) < len(value)
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            self._findings.add("windows_newlines", self._line)
        if found := find_marker(text):
            self.refuse("marker", found[0], detail=f"field '{name}', {found[1]!r:.40}")
        return text

    def text(self, holder: Raw, name: str) -> str:
        """Returns a field that must be there and hold something."""
        value = holder.get(name)
        if value is None:
            alias = next((other for other in _RENAMED.get(name, ()) if holder.get(other) is not None), "")
            if alias:
                self.misnamed(alias, name)
            else:
                self.refuse("missing", name)
            return ""
        text = self.clean(value, name)
        if isinstance(value, str) and not value.strip():
            self.refuse("empty", name)
        return text


def _instruction(raw: Raw, field: _Field) -> tuple[Turn, ...] | None:
    other = next((name for name in _RENAMED["messages"] if name in raw), "") if "instruction" not in raw else ""
    if isinstance(raw.get(other), list):
        field.misnamed(other, "messages")
        return None
    instruction = field.text(raw, "instruction")
    given = raw.get("input")
    extra = "" if given is None else field.clean(given, "input")
    return Turn("user", user_content(instruction, extra)), Turn("assistant", field.text(raw, "response"))


def _chat(messages: Any, field: _Field) -> tuple[Turn, ...] | None:
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        field.refuse("bad_messages")
        return None
    turns: list[Turn] = []
    for at, message in enumerate(messages):
        if message.get("role") not in ROLES:
            field.refuse("bad_role", detail=f"messages[{at}]")
            continue
        turns.append(Turn(message["role"], field.text(message, "content")))
    if field.wrong:
        return None
    spoken = [turn.role for turn in turns[1 if turns[0].role == "system" else 0 :]]
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        field.refuse("bad_order")
        return None
    return tuple(turns)
