"""What is wrong or worth knowing about a data set or a recipe: levels, codes, messages, what to do.

Owns the closed table of findings about rows, and collecting them in bounded memory: a million wrong rows make one finding
with a count and the first few lines. Does not own looking for them (`row_sources`, `rows`, `duplicates`, the engine's
inspection) nor findings about recipes (`recipe_lint`). No text of a row is ever part of one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

SHOWN_LINES = 10
"""Lines named by one finding; the rest is only counted."""
MAX_SUBJECTS = 20
"""Different subjects (names of fields, say) of one code; what comes later is counted under OTHERS."""
OTHERS = "another one"
_LAST = 1 << 62


class Level(StrEnum):
    """How much a finding matters."""

    INFO = "info"
    """Done for you, or good to know."""
    WARNING = "warning"
    """Training works and is likely to disappoint."""
    ERROR = "error"
    """Training on it is refused."""


class Finding(BaseModel):
    """One thing, with all the lines that it is true of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Level
    code: str
    """A key of RULES, or of a lint; stable."""
    message: str
    """What is the case; no row's text."""
    fix: str
    """What to do about it; empty where there is nothing to do."""
    count: int = 0
    """Rows that it is true of; 0 where it is not about rows."""
    lines: tuple[int, ...] = ()
    """The first SHOWN_LINES of them, from 1."""

    def in_words(self) -> str:
        """Returns the finding in one line: where, what, what to do."""
        return f"{self.where}{self.message}{f'; {self.fix}' if self.fix else ''}"

    @property
    def where(self) -> str:
        """`line 4: `, `lines 4, 7, 9 and 20 more: `, or nothing."""
        if not self.lines:
            return ""
        more = f" and {self.count - len(self.lines)} more" if self.count > len(self.lines) else ""
        return f"line{'s' if self.count > 1 else ''} {', '.join(map(str, self.lines))}{more}: "


@dataclass(frozen=True, slots=True)
class _Rule:
    level: Level
    message: str
    """`{subject}` is a field, a family of templates, an encoding; never a row's text."""
    fix: str = ""


_E, _W, _I = Level.ERROR, Level.WARNING, Level.INFO
_PLAIN = "send the plain text of each field; the template is added when the row is rendered"

RULES = {
    # The file
    "encoding": _Rule(_E, "the file is {subject}, not UTF-8", "iconv -f {subject} -t UTF-8 FILE > FILE.utf8"),
    "file_kind": _Rule(_E, "the file is {subject}, not JSON lines", "unpack or convert it: one JSON object a line"),
    "json_array": _Rule(_E, "the file is one JSON array, not JSON lines", "jq -c '.[]' FILE > FILE.jsonl"),
    "json_pretty": _Rule(_E, "a JSON object stretches over several lines", "jq -c . FILE > FILE.jsonl"),
    "not_parquet": _Rule(_E, "not a readable Parquet file ({subject})", "write it again, or send JSON lines"),
    "columns": _Rule(_E, "the Parquet file has no columns instruction and response, nor messages; it has {subject}"),
    "no_rows": _Rule(_E, "the data set holds no rows", "send one JSON object a line"),
    "one_row": _Rule(_E, "the data set holds only one different row", "at least 2 are needed: one is held out"),
    # A line
    "not_utf8": _Rule(_E, "not UTF-8{subject}", "save the file as UTF-8"),
    "not_json": _Rule(_E, "not JSON", "write one JSON object a line, as `json.dumps` does"),
    "cr_newlines": _Rule(_E, "lines end with a bare carriage return", "tr '\\r' '\\n' < FILE > FILE.jsonl"),
    "not_object": _Rule(_E, "not a JSON object", 'write {{"instruction": ..., "response": ...}}'),
    "row_too_long": _Rule(_E, "longer than {subject}", "cut the row into several, or leave it out"),
    # A field
    "missing": _Rule(_E, "field '{subject}' is missing", "add it"),
    "renamed": _Rule(_E, "field {subject}", "rename it"),
    "empty": _Rule(_E, "field '{subject}' is empty", "fill it, or leave the row out"),
    "not_text": _Rule(_E, "field '{subject}' is not text", "write it as a string"),
    "surrogate": _Rule(
        _E, "field '{subject}' holds half of a surrogate pair, which is no character", "write whole characters"
    ),
    "marker": _Rule(_E, "a field holds a template marker of the family {subject}", _PLAIN),
    "mixed_templates": _Rule(_E, "the rows went through different templates: {subject}", _PLAIN),
    "both_shapes": _Rule(_W, "the row has 'messages' and also {subject}, which is not used", "keep one of them"),
    "bad_messages": _Rule(_E, "'messages' is not a list of messages", 'write [{{"role": ..., "content": ...}}, ...]'),
    "bad_role": _Rule(
        _E, "a message needs a role of system, user or assistant", "drop messages of tools, rename other roles"
    ),
    "bad_order": _Rule(
        _E, "'messages' must alternate user and assistant after an optional system turn, ending with assistant"
    ),
    # The rows together
    "duplicate_rows": _Rule(_W, "the same row is there before", "leave it out: it counts twice in training"),
    "same_prompt": _Rule(
        _W,
        "the prompt is there before, with another response",
        "decide for one of them; rows of one prompt stay on one side of the split",
    ),
    "overlap": _Rule(
        _W,
        "the row is held out, and its prompt is also trained on: the held-out loss is too good",
        "add rows with other prompts",
    ),
    # What the tokenizer says
    "nothing_supervised": _Rule(
        _E,
        "no token of the response is within the first {subject} tokens: nothing to learn",
        "raise max_length, or shorten the prompt",
    ),
    "too_long": _Rule(_W, "longer than {subject} tokens: the end is cut off", "raise max_length, or shorten the row"),
    "template_mismatch": _Rule(
        _E,
        "the chat template's answer does not continue its own prompt: nothing can be supervised",
        "use a backbone whose chat template renders a conversation's beginning as the beginning of the conversation",
    ),
    "special_tokens": _Rule(
        _W, "a field holds one of the tokenizer's special tokens ({subject})", "take it out: it acts as a command"
    ),
    "unknown_tokens": _Rule(_W, "characters that the tokenizer does not know are lost", "write them another way"),
    "unsupervised_turns": _Rule(
        _I, "an earlier assistant turn is not trained on: the chat template rewrites it", "send it as a row of its own"
    ),
    # What was normalised
    "bom": _Rule(_I, "a byte order mark at the start was skipped"),
    "windows_newlines": _Rule(_I, "Windows line ends were read as newlines"),
    "trimmed": _Rule(_I, "white space at the end of a field was cut"),
    "blank_lines": _Rule(_I, "blank lines were skipped"),
    "ignored_fields": _Rule(_I, "field '{subject}' is not used"),
}
"""Code -> what it means. A test triggers every one of them."""


@dataclass(slots=True)
class _Tally:
    detail: str
    count: int = 0
    newest: int = 0
    lines: list[int] = field(default_factory=list)


class Findings:
    """Collects; memory does not grow with the rows."""

    def __init__(self) -> None:
        self._tallies: dict[str, dict[str, _Tally]] = {}
        self.wrong_rows = 0
        """Rows with at least one error; whoever reads the rows counts them."""

    def add(self, code: str, line: int = 0, subject: str = "", *, detail: str = "", count: int = 1) -> None:
        """Notes that a rule holds for a line.

        Args:
            code: of RULES.
            line: from 1; 0 for the file as a whole.
            subject: fills the rule's message; findings of different subjects are kept apart.
            detail: said of the first line only (a column, say); fixed words and numbers.
            count: rows that this stands for.
        """
        of_code = self._tallies.setdefault(code, {})
        if subject not in of_code and len(of_code) >= MAX_SUBJECTS:
            subject = OTHERS
        tally = of_code.setdefault(subject, _Tally(detail))
        if line and line == tally.newest:  # once for each row, however often it is true of it
            return
        tally.newest = line
        tally.count += count
        if line and len(tally.lines) < SHOWN_LINES:
            tally.lines.append(line)

    def add_lines(self, code: str, lines: Iterable[int], subject: str = "") -> None:
        """Notes a rule for lines in order."""
        for line in lines:
            self.add(code, line, subject)

    def subjects(self, code: str) -> dict[str, tuple[int, int]]:
        """Returns subject -> (rows, first line) of a code."""
        of_code = self._tallies.get(code, {})
        return {subject: (tally.count, tally.lines[0] if tally.lines else 0) for subject, tally in of_code.items()}

    @property
    def has_errors(self) -> bool:
        """Whether training on the data is refused."""
        return any(RULES[code].level is Level.ERROR for code in self._tallies)

    def report(self) -> tuple[Finding, ...]:
        """Returns the findings: errors first, then by first line."""
        # What is not about lines sums up what is, or is the only thing to say.
        order = {Level.ERROR: 0, Level.WARNING: 1, Level.INFO: 2}
        made = [
            _finding(code, subject, tally)
            for code, of_code in self._tallies.items()
            for subject, tally in of_code.items()
        ]
        return tuple(sorted(made, key=lambda it: (order[it.level], it.lines[:1] or (_LAST,), it.code, it.message)))


def _finding(code: str, subject: str, tally: _Tally) -> Finding:
    rule = RULES[code]
    return Finding(
        level=rule.level,
        code=code,
        message=rule.message.format(subject=subject) + (f" ({tally.detail})" if tally.detail else ""),
        fix=rule.fix.format(subject=subject),
        count=tally.count,
        lines=tuple(tally.lines),
    )
