"""Looks through a data set: `python -m trainer_service.engine.inspection`, a request on stdin, JSON lines on stdout.

Owns the order of the looking and the figures. Does not own what is right (`core.rows`, `core.duplicates`, `rendering`).
Without torch: transformers then offers its tokenizers alone, and starts in a third of the time and a fifth of the memory.
"""

import math
import os
import re
import resource
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from trainer_service.core.duplicates import RowKeys
from trainer_service.core.findings import Findings
from trainer_service.core.inspection import (
    Figures,
    Inspection,
    InspectionRequest,
    Output,
    PreviewRow,
    PreviewSpan,
    Progress,
)
from trainer_service.core.inspector import OUT_OF_MEMORY
from trainer_service.core.rows import Row, read_rows
from trainer_service.engine.rendering import Rendered, TemplateMismatch, render
from trainer_service.engine.tokenizer import Tokenizer

MEMORY_LIMIT = 8 << 30
"""Bytes of address space: what a hostile file can make a parser ask for."""
_PREVIEW_CHARACTERS = 2000
_REPORT_SECONDS = 0.2


def inspect(request: InspectionRequest, progress: Callable[[int, int], None]) -> Inspection:
    """Looks through a file once; memory holds 24 bytes a row, and 12 for each tokenized one."""
    findings, keys = Findings(), RowKeys()
    rows = _kept(read_rows(request.file, request.file_format, findings, progress), keys)
    lengths = _Lengths(request)
    preview: list[PreviewRow] = []
    template = ""
    if request.backbone is None:
        for _ in rows:
            pass
    else:
        tokenizer = _tokenizer(request.backbone)
        template = "tokenizer" if tokenizer.chat_template else "project"
        checks = _TokenChecks(tokenizer, request.max_length, findings)
        try:
            for rendered in render(lengths.drawn(rows), tokenizer, max_length=request.max_length):
                lengths.add(rendered)
                checks.look(rendered)
                if len(preview) < request.preview_rows:
                    preview.append(_preview(rendered, tokenizer))
        except TemplateMismatch as error:
            findings.add("template_mismatch", error.line)
    keys.report(findings)
    if len(keys) > 1:
        held_out = min(len(keys) - 1, max(1, round(len(keys) * request.eval_fraction)))
        keys.report_overlap(findings, held_out=held_out, data_digest=request.digest)
    return Inspection(
        rows=len(keys) + findings.wrong_rows,
        wrong_rows=findings.wrong_rows,
        findings=findings.report(),
        figures=lengths.figures(len(keys)) if request.backbone else None,
        preview=tuple(preview),
        template=template,  # type: ignore[arg-type]  # one of the three literals above
    )


def _kept(rows: Iterable[Row], keys: RowKeys) -> Iterator[Row]:
    for row in rows:
        keys.add(row)
        yield row


def _tokenizer(folder: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


class _TokenChecks:
    """What only the tokenizer can say of a row."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, findings: Findings) -> None:
        self._findings, self._max_length = findings, max_length
        self._unknown = tokenizer.unk_token_id
        special = sorted(filter(None, tokenizer.all_special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None

    def look(self, rendered: Rendered) -> None:
        line = rendered.row.line
        if not rendered.spans:
            self._findings.add("nothing_supervised", line, str(self._max_length))
        elif rendered.full_length > self._max_length:
            self._findings.add("too_long", line, str(self._max_length), detail=f"{rendered.full_length} tokens")
        if rendered.unsupervised_turns:
            self._findings.add("unsupervised_turns", line)
        if self._unknown is not None and self._unknown in rendered.ids:
            self._findings.add("unknown_tokens", line)
        for turn in rendered.row.turns if self._special else ():
            if self._special and (found := self._special.search(turn.content)):
                self._findings.add("special_tokens", line, found.group())
                break


class _Lengths:
    """Lengths of rows, or of rows drawn by chance where there are many.

    A row is drawn by bits of a number that only its place gives, so that a data set in order (by length, by topic) is
    drawn evenly; whenever twice the wanted number is there, one more bit has to fit and half of them go.
    """

    def __init__(self, request: InspectionRequest) -> None:
        self._wanted, self._max_length = request.sample_rows, request.max_length
        self._mask = 0
        self._seen = 0
        self._places, self._tokens, self._supervised, self._full = (array("Q") for _ in range(4))

    def drawn(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yields the rows to tokenize; each must come back through `add` before many others are asked for."""
        for at, row in enumerate(rows):
            self._seen = at + 1
            if not _scattered(at) & self._mask:
                self._places.append(at)
                yield row

    def add(self, rendered: Rendered) -> None:
        """Takes a drawn row, in order."""
        self._tokens.append(len(rendered.ids))
        self._supervised.append(rendered.supervised)
        self._full.append(rendered.full_length)
        if self._wanted and len(self._tokens) >= 2 * self._wanted:
            self._mask = self._mask << 1 | 1
            keep = [at for at in range(len(self._tokens)) if not _scattered(self._places[at]) & self._mask]
            waiting = list(self._places[len(self._tokens) :])
            self._places = array("Q", [self._places[at] for at in keep] + waiting)
            for name in ("_tokens", "_supervised", "_full"):
                column = getattr(self, name)
                setattr(self, name, array("Q", [column[at] for at in keep]))

    def figures(self, rows: int) -> Figures:
        """Returns the sums, scaled up to `rows`."""
        fits: slice | list[int] = slice(None)
        if self._mask:  # rows that were drawn before the last bit was added, and came back after it
            fits = [at for at in range(len(self._tokens)) if not _scattered(self._places[at]) & self._mask]
        tokens = np.frombuffer(self._tokens, np.uint64)[fits].astype(np.float64)
        supervised = np.frombuffer(self._supervised, np.uint64)[fits]
        full = np.frombuffer(self._full, np.uint64)[fits]
        count = len(tokens)
        scale = rows / count if count else 0.0
        error = 0.0
        if 1 < count < rows:
            spread = float(tokens.std(ddof=1)) * math.sqrt((1 - count / rows) / count)
            error = 1.96 * spread / max(1.0, float(tokens.mean()))
        return Figures(
            rows=rows,
            sampled_rows=count,
            max_length=self._max_length,
            tokens=round(tokens.sum() * scale),
            tokens_error=error,
            supervised_tokens=round(float(supervised.sum()) * scale),
            squared_tokens=round(float(np.square(tokens).sum()) * scale),
            longest=int(tokens.max(initial=0)),
            median=int(np.median(tokens)) if count else 0,
            percentile_95=int(np.percentile(tokens, 95)) if count else 0,
            cut_rows=round(float((full > self._max_length).sum()) * scale),
        )


def _scattered(place: int) -> int:
    """Returns 32 bits that a place alone gives and that its neighbours do not share (the finaliser of MurmurHash3)."""
    place = (place ^ place >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    place = (place ^ place >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return place ^ place >> 16


def _preview(rendered: Rendered, tokenizer: Tokenizer) -> PreviewRow:
    spans: list[PreviewSpan] = []
    done = 0
    for start, end in [*rendered.spans, (len(rendered.ids), len(rendered.ids))]:
        for first, last, supervised in ((done, start, False), (start, end, True)):
            if first < last:
                text = tokenizer.decode(rendered.ids[first:last], skip_special_tokens=False)
                shown = text if len(text) <= _PREVIEW_CHARACTERS else f"{text[:_PREVIEW_CHARACTERS]}..."
                spans.append(PreviewSpan(text=shown, supervised=supervised))
        done = end
    return PreviewRow(
        line=rendered.row.line, tokens=len(rendered.ids), full_tokens=rendered.full_length, spans=tuple(spans)
    )


def main() -> int:
    """Reads the request, writes progress and the report; returns the exit status."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # None: the import system's own 'not there'
    request = InspectionRequest.model_validate_json(sys.stdin.buffer.read())
    os.nice(5)  # training and serving go first
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _REPORT_SECONDS:
            last = time.monotonic()
            _write(Output(progress=Progress(done=done, total=total)))

    try:
        _write(Output(report=inspect(request, report)))
    except MemoryError:
        return OUT_OF_MEMORY
    return 0


def _write(output: Output) -> None:
    sys.stdout.write(output.model_dump_json(exclude_none=True) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
