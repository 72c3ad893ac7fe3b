"""The audit log: who changed what, from what, to what. One object for each entry, written once and never changed.

Owns entries, their order, reading them back, newest first, and looking all of them through. Does not own how a chain shows what
was done to it (`audit_chain`), which calls make one (`graftwork.rpc.access`), what an
entry says (`api/audit_*`), nor that none is lost on the way here (`audit_outbox`). Entries are not a numbered log: those who
write are many and independent, and must not wait for each other. Nothing in Graftwork removes one.
"""

import base64
import binascii
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

from pydantic import Field

from adapter_store import documents, layout
from adapter_store.audit_chain import ChainState, Head, Link, Links, Problem, ProblemKind, one_by_one
from adapter_store.backends.protocol import Backend, ObjectMissing
from adapter_store.documents import Document
from adapter_store.errors import CorruptRecord, InvalidName
from adapter_store.manifest import AliasRecord
from adapter_store.paging import DEFAULT_SIZE, MAX_SIZE, Page

_MAX_TEXT = 1000  # characters of any text in an entry: what callers write is kept, and bounded
_LOOKED_AT = 2000  # names that one page looks through for a filter; the next page goes on behind them
_READERS = 8
DAMAGED = "damaged"
"""The outcome of an entry whose bytes are not those that were written."""
Text = Annotated[str, Field(max_length=_MAX_TEXT)]


class FieldChange(Document):
    """One thing that became another. Empty is 'nothing' on either side."""

    field: Text
    before: Text = ""
    after: Text = ""


class AuditEntry(Document):
    """One call that changed something, or tried to; or one change that a service made by itself."""

    schema_version: int = 1
    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    at: datetime
    """When it was begun, by the clock of the service that carried it out; UTC."""
    service: Text
    """Which service, `TrainerService`, and on which machine."""
    actor: Text
    """Role, name where the key has one, and key id: `operator alice 1f2e...`; or a job's resource name."""
    peer: Text = ""
    """The address that it came from."""
    action: Text
    """The method, `SetAlias`; or what a service did by itself."""
    target: Text = ""
    """Resource name of what it is about."""
    tenant: str = ""
    """Whose that is; empty for nobody's. That tenant may read the entry."""
    outcome: Text
    """`ok`; the kind of error, when it was refused or failed; `cancelled`, when the caller left first; `unknown`, when the service
    was killed meanwhile. After the last two it may have been carried out or not."""
    changes: tuple[FieldChange, ...] = ()
    reason: Text = ""
    """As the caller gave it."""
    request_id: Text = ""
    """Names the call in the service's own log."""
    writer: str = ""
    """Whose chain it is in, see `audit_chain`; empty: in none, as what `graft store` notes."""
    number: int = 0
    """In that chain, from 1."""
    previous: str = ""
    """Digest of the writer's entry before; empty for its first."""


def new_id() -> str:
    """An id for one entry."""
    return secrets.token_hex(8)


def now() -> datetime:
    """The moment for an entry, in the microseconds that its key can hold."""
    return datetime.now(UTC)


def cut(text: str) -> str:
    """Returns a text as an entry may hold it."""
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."


def changes_of(changes: Sequence[tuple[str, object, object]]) -> tuple[FieldChange, ...]:
    """Writes changes as an entry holds them; None and False are nothing."""
    return tuple(FieldChange(field=name, before=_plain(before), after=_plain(after)) for name, before, after in changes)


def differing(before: Mapping[str, object], after: Mapping[str, object]) -> list[tuple[str, object, object]]:
    """Returns what differs, in the order of `after`."""
    return [(name, before.get(name), value) for name, value in after.items() if before.get(name) != value]


def _plain(value: object) -> str:
    if value is None or value is False:
        return ""
    return cut("yes" if value is True else str(value))


def pointing(record: AliasRecord) -> dict[str, object]:
    """Where an alias points and how it is served; nothing once it is removed."""
    if record.removed:
        return {"version": None, "split": None, "route": None, "latency_target": None}
    split = " ".join(f"{share.version[:12]}={share.weight}" for share in record.split)
    asked = [f"{name}={value}" for name, value in record.target.model_dump().items() if value]
    return {
        "version": record.version,
        "split": split or None,
        "route": record.route,
        "latency_target": " ".join(asked) or None,
    }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look through the whole log found.

    Attributes:
        entries: that there are. unchained: among them, that are in no chain.
        chains: one for each writer. problems: what was changed, removed, moved or added.
    """

    entries: int
    unchained: int
    chains: Sequence[ChainState]
    problems: Sequence[Problem]


class Audit:
    """The audit log of a store.

    Args:
        backend: where it lies.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def append(self, entry: AuditEntry) -> bool:
        """Stores an entry, if there is none of its moment and id (a conditional create); the same one again changes nothing.

        Returns:
            Whether this entry, as it is, lies there now.

        Raises:
            StoreUnavailable: the store is away.
        """
        key = layout.audit_entry(entry.at, entry.tenant, entry.id)
        if self._backend.create(key, documents.encode(entry)):
            return True
        try:
            _, digest = documents.load_with_digest(self._backend, key, AuditEntry, f"audit entry {entry.id}")
        except CorruptRecord:
            return False
        return digest == documents.digest(entry)

    def verify(
        self, head: Callable[[], Head | None] = lambda: None, progress: Callable[[int], None] = lambda _: None
    ) -> Verdict:
        """Reads all entries and holds them to their chains; see `audit_chain` for what that can show.

        Args:
            head: where this process's own chain stands.
            progress: called with the number of entries read so far.

        Raises:
            StoreUnavailable: the store is away.
        """
        before, seen, links = head(), set[str](), Links()
        unchained, problems = 0, list[Problem]()
        for look in range(2):
            with ThreadPoolExecutor(_READERS, thread_name_prefix="store-audit") as pool:
                names = (name for name in self._names("", None) if name not in seen)
                while batch := list(islice(names, MAX_SIZE)):
                    for name, found in zip(batch, pool.map(self._link, batch), strict=True):
                        seen.add(name)
                        problems += [found] if isinstance(found, Problem) else []
                        if isinstance(found, Link):
                            links.add(found)
                        unchained += found is None
                    progress(len(seen))
            # Entries that came during the look may stand before its place, and their followers behind it.
            if look or not links.missing(before):
                break
        after = head()
        problems += links.problems(before, after)
        return Verdict(len(seen), unchained, links.states(after), one_by_one(problems))

    def _link(self, name: str) -> Link | Problem | None:
        """Reads an entry for `verify`; None for one in no chain."""
        key = layout.AUDIT + name
        try:
            entry, digest = documents.load_with_digest(self._backend, key, AuditEntry, f"audit entry {name}")
        except ObjectMissing:  # between the listing and now
            return Problem(ProblemKind.REMOVED, name, "", 0, 0, "it went away during this look")
        except CorruptRecord as error:
            return self._damaged(name, str(error))
        if layout.audit_entry(entry.at, entry.tenant, entry.id) != key:
            own = layout.audit_entry(entry.at, entry.tenant, entry.id).removeprefix(layout.AUDIT)
            return Problem(ProblemKind.MOVED, name, entry.writer, entry.number, entry.number, f"its own place is {own}")
        if not entry.writer:
            return None
        return Link(name, entry.writer, entry.number, entry.previous, digest, entry.service, entry.at)

    def _damaged(self, name: str, cause: str) -> Link | Problem:
        """An entry whose checksum does not fit; its place in a chain, as far as it still says one."""
        data = b"".join(self._backend.read(layout.AUDIT + name, length=documents.MAX_BYTES))
        try:
            body = json.loads(data)["body"]
            writer, number, previous = str(body["writer"]), int(body["number"]), str(body["previous"])
        except (ValueError, KeyError, TypeError):
            writer, number, previous = "", 0, ""
        if writer and number > 0:
            return Link(name, writer, number, previous, "", "", layout.of_audit_entry(name)["at"])
        return Problem(ProblemKind.CHANGED, name, "", 0, 0, cause)

    def page(
        self,
        page_size: int = 0,
        page_token: str = "",
        *,
        tenant: str = "",
        matches: Callable[[AuditEntry], bool] = lambda entry: True,
        since: datetime | None = None,
    ) -> Page[AuditEntry]:
        """Returns entries, newest first. A page of a filtered list may hold fewer than asked for, or none, and still have a next.

        Args:
            page_size, page_token: as in `paging`.
            tenant: only of what is that tenant's; empty: everybody's and nobody's.
            matches: leaves out what it does not take.
            since: no older ones (UTC).

        Raises:
            InvalidName: a negative size, or a token that is not from here.
        """
        if page_size < 0:
            raise InvalidName(f"page_size {page_size} is negative; use 0 for the default")
        size = min(page_size or DEFAULT_SIZE, MAX_SIZE)
        found: list[AuditEntry] = []
        looked, last, names = 0, "", self._names(_decode(page_token), since)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="store-audit") as pool:
            while len(found) < size and looked < _LOOKED_AT:
                batch = list(islice(names, size - len(found)))
                if not batch:
                    return Page(found, "")
                looked, last = looked + len(batch), batch[-1]
                wanted = [name for name in batch if not tenant or layout.of_audit_entry(name)["tenant"] == tenant]
                entries = pool.map(self._read, wanted)
                found += [entry for entry in entries if matches(entry) and (since is None or entry.at >= since)]
        return Page(found, _encode(last) if next(names, None) else "")

    def _names(self, after: str, since: datetime | None) -> Iterator[str]:
        """Yields `day/entry`, newest first."""
        first_day, _, first = after.partition("/")
        oldest = layout.audit_day(since).removeprefix(layout.AUDIT) if since else ""
        # The day that the token names is looked at again; `children` goes on behind what it is given.
        for day in ([f"{first_day}/"] if first else []) + list(self._days(f"{first_day}/" if first else "")):
            if oldest and day > oldest:  # complements: what sorts behind is older
                return
            yield from (f"{day}{name}" for name in self._children(f"{layout.AUDIT}{day}", first))
            first = ""

    def _days(self, after: str) -> Iterator[str]:
        return self._children(layout.AUDIT, after)

    def _children(self, prefix: str, after: str) -> Iterator[str]:
        while names := self._backend.children(prefix, after=after, limit=MAX_SIZE):
            yield from names
            after = names[-1]

    def _read(self, name: str) -> AuditEntry:
        try:
            return documents.load(self._backend, layout.AUDIT + name, AuditEntry, f"audit entry {name}")
        except (CorruptRecord, ObjectMissing) as error:  # shown as what it is: one of them must not hide the others
            return AuditEntry(
                **layout.of_audit_entry(name), service="", actor="", action="", outcome=DAMAGED, reason=cut(str(error))
            )


def _encode(name: str) -> str:
    return base64.urlsafe_b64encode(f"audit|{name}".encode()).decode()


def _decode(token: str) -> str:
    if not token:
        return ""
    try:
        scope, _, name = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True).decode().partition("|")
    except (ValueError, binascii.Error):
        scope, name = "", ""
    if scope != "audit" or name.count("/") != 1 or ".." in name:
        raise InvalidName("page_token is not from a page of this list; start again without one")
    return name
