"""A writer's entries of the audit log as a chain: each has a number and the digest of the one before.

Owns where a writer stands (`Chain`) and what a look through all entries finds (`Links`): one that was changed, removed, moved or
added leaves a break. Does not own reading entries (`adapter_store.audit`) nor the way to the store (`audit_outbox`).

A chain alone does not show that its last entries were cut off, or that all of it was written anew: the writer's own file, which
no credentials of the store reach, does. So a service vouches for its own chain.
"""

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import structlog
from pydantic import Field

from adapter_store import documents
from adapter_store.documents import Document
from adapter_store.errors import CorruptRecord

log = structlog.get_logger(__name__)


class Head(Document):
    """Where a writer stands."""

    writer: str = Field(pattern=r"^[0-9a-f]{16}$")
    number: int = Field(ge=0)
    """Of its newest entry in the store; 0: it has none."""
    digest: str = ""
    """Of that entry, as `documents.digest` makes it."""


class Chain:
    """The writer's side, kept in a file. Not safe to use from several threads.

    Args:
        file: this writer's own. Where there is none, or none that can be read, a new chain begins.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.head = self._load()

    def follow(self, number: int, digest: str) -> None:
        """Goes on behind an entry that is in the store now."""
        self.head = Head(writer=self.head.writer, number=number, digest=digest)
        partial = self._file.with_suffix(".chain-partial")
        try:
            with partial.open("wb") as out:
                out.write(documents.encode(self.head))
                out.flush()
                os.fsync(out.fileno())
            os.replace(partial, self._file)
        except OSError as error:
            log.error("the audit log's chain is not on disk", cause=str(error))
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            self.break_off()

    def break_off(self) -> None:
        """Lets the next process begin a chain of its own: on from an old place it would use numbers a second time."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _load(self) -> Head:
        try:
            return documents.decode(Head, self._file.read_bytes(), f"the audit log's chain in {self._file}")
        except FileNotFoundError:
            pass
        except (CorruptRecord, OSError) as error:
            log.error("a new chain of audit entries begins", cause=str(error))
            self.break_off()
        return Head(writer=secrets.token_hex(8), number=0)


class ProblemKind(StrEnum):
    """What is wrong with an entry."""

    CHANGED = "changed"
    REMOVED = "removed"
    MOVED = "moved"
    ADDED = "added"


@dataclass(frozen=True, slots=True)
class Problem:
    """A break.

    Attributes:
        kind: what happened.
        name: `day/entry`, where it lies; of what was removed empty.
        writer, number, last: which of whose entries; `last` only differs for a row of removed ones. 0: not known.
        text: for people.
    """

    kind: ProblemKind
    name: str
    writer: str
    number: int
    last: int
    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """What a chain needs to know of an entry.

    Attributes:
        name: `day/entry`, where it lies.
        digest: of its content; empty when that does not fit its own checksum.
        service, at: who wrote it, and when it says so.
    """

    name: str
    writer: str
    number: int
    previous: str
    digest: str
    service: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ChainState:
    """One writer's entries.

    Attributes:
        number: of the newest that is there. service, at: of that entry.
        vouched: this process is the writer, and knows that none is missing at the end.
    """

    writer: str
    number: int
    service: str
    at: datetime
    vouched: bool


class Links:
    """Entries by writer and number, as they were found in any order."""

    def __init__(self) -> None:
        self._found: dict[str, dict[int, list[Link]]] = {}

    def add(self, link: Link) -> None:
        """Takes an entry that has a place in a chain."""
        self._found.setdefault(link.writer, {}).setdefault(link.number, []).append(link)

    def missing(self, own: Head | None) -> bool:
        """Whether a number is not there, as may also be when entries came during the look."""
        tops = {writer: max(numbers) for writer, numbers in self._found.items()}
        if own is not None and own.number:
            tops[own.writer] = max(own.number, tops.get(own.writer, 0))
        return any(len(self._found.get(writer, {})) < top for writer, top in tops.items())

    def states(self, own: Head | None) -> list[ChainState]:
        """Returns the chains, the one with the newest entry first."""
        states = []
        for writer, numbers in self._found.items():
            newest = numbers[max(numbers)][0]
            vouched = own is not None and own.writer == writer
            states.append(ChainState(writer, newest.number, newest.service, newest.at, vouched))
        return sorted(states, key=lambda state: state.at, reverse=True)

    def problems(self, before: Head | None, after: Head | None) -> list[Problem]:
        """Returns the breaks of all chains.

        Args:
            before: where this process's own chain stood when the look began: up to there all must be there.
            after: where it stood when the look ended: behind that nothing may be.
        """
        found: list[Problem] = []
        writers = set(self._found) | ({before.writer} if before and before.number else set())
        for writer in sorted(writers):
            own = before is not None and after is not None and before.writer == writer
            found += _Walk(writer, self._found.get(writer, {})).down(
                before if own else None, after.number if own and after else None
            )
        return found


class _Walk:
    """From a chain's end to its beginning: what is known of an entry is what the one behind it says."""

    def __init__(self, writer: str, numbers: dict[int, list[Link]]) -> None:
        self._writer, self._numbers = writer, numbers
        self._problems: list[Problem] = []

    def down(self, head: Head | None, end: int | None) -> list[Problem]:
        top = max([*self._numbers, head.number if head else 0])
        expected, gap_end = "", 0
        for number in range(top, 0, -1):
            if head is not None and number == head.number:
                expected = head.digest
            links = self._numbers.get(number, [])
            if not links:
                gap_end, expected = gap_end or number, ""
                continue
            if gap_end:
                self._removed(number + 1, gap_end)
                gap_end = 0
            if end is not None and number > end:
                for link in links:
                    self._note(ProblemKind.ADDED, link, "its writer, which runs this look, has not written it")
                continue
            expected = self._look(links, expected)
        if gap_end:
            self._removed(1, gap_end)
        return self._problems[::-1]

    def _look(self, links: list[Link], expected: str) -> str:
        """Holds the entries that claim a number to what is expected there; returns what is expected of the one before."""
        sound = [link for link in links if link.digest and expected in ("", link.digest)]
        true = sound[0] if sound else links[0]
        if not sound:
            why = "the entry behind it was written over another content" if true.digest else "its checksum does not fit"
            self._note(ProblemKind.CHANGED, true, why)
        for other in links:
            if other is not true and other.digest != true.digest:  # the same content elsewhere is told as moved
                self._note(ProblemKind.ADDED, other, f"another entry has this number: {true.name}")
        if sound and expected:
            return true.previous
        # What nobody vouches for, or what was changed, is believed about the one before only where it fits.
        before = self._numbers.get(true.number - 1, [])
        if any(link.digest == true.previous for link in before):
            return true.previous
        if sound and before:
            self._note(ProblemKind.CHANGED, true, f"this one or the one before it, {before[0].name}: they do not fit")
        return ""

    def _note(self, kind: ProblemKind, link: Link, why: str) -> None:
        self._problems.append(Problem(kind, link.name, link.writer, link.number, link.number, why))

    def _removed(self, first: int, last: int) -> None:
        neighbours = [self._numbers[number][0].name for number in (last + 1, first - 1) if number in self._numbers]
        where = f"next to {' and '.join(neighbours)}" if neighbours else "all of the chain"
        if first == 1:
            where += "; the chain's oldest, which the bucket may have let expire"
        self._problems.append(
            Problem(ProblemKind.REMOVED, "", self._writer, first, last, f"not in the store any more; {where}")
        )


def one_by_one(problems: Iterable[Problem]) -> list[Problem]:
    """Returns problems without repeats, in order."""
    return list(dict.fromkeys(problems))
