"""From a call to its entry in the audit log: who, what, and through the outbox into the store.

Owns when an entry is made and how many refused calls are worth one. Does not own what a method's entry says about its target
(`audit_registry`, and the services' own tables), nor the way to the store (`adapter_store.audit_outbox`).
"""

import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from adapter_store.audit import AuditEntry, changes_of, cut, new_id, now
from adapter_store.audit_chain import Head
from adapter_store.audit_outbox import UNKNOWN, Outbox
from adapter_store.store import AdapterStore
from graftwork.errors import ErrorCode, GraftError
from graftwork.operator_keys import OperatorKey
from graftwork.rpc.audit import OK, Attempt

REFUSED_PER_MINUTE = 60
"""Refused calls of one key that get an entry; more are only told in the service's log. What was carried out, or may have been, always
gets one."""
_REFUSED = frozenset(
    {
        ErrorCode.INVALID,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.ALREADY_EXISTS,
        ErrorCode.CONFLICT,
        ErrorCode.PRECONDITION,
        ErrorCode.EXHAUSTED,
    }
)
"""Ends after which nothing was changed."""
_KEYS = 4096  # whose refusals are counted
_TENANT = re.compile(r"tenants/([a-z0-9][a-z0-9-]{0,62})(?:/|$)", re.ASCII)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """What a call was about, and what became of it.

    Attributes:
        target: resource name; empty: the request's own `name` or `parent`.
        changes: what became what, as `(field, before, after)`.
        reason: as the caller gave it; empty: the request's own.
    """

    target: str = ""
    changes: Sequence[tuple[str, object, object]] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """A call that was carried out.

    Attributes:
        request: its message, or a stream's first one.
        answer: its message; None of a stream.
        began: when, UTC.
        before: what the handler found before it changed it (`graftwork.rpc.audit.found_before`), else what a look before the
            call found; None without either.
    """

    request: Any
    answer: Any
    began: datetime
    before: Any


Teller = Callable[[Done], Told]
"""Says what a call has changed. May ask the store."""
Look = Callable[[Any], Any]
"""Looks, before a call is carried out, at what its request (not a stream's) is about. May ask the store."""


@dataclass(slots=True)
class _Refusals:
    left: float
    at: float


@dataclass(frozen=True, slots=True)
class _Begun:
    entry: AuditEntry
    key_id: str
    before: Any


class AuditTrail:
    """Makes a process's entries. Implements `graftwork.rpc.audit.Trail`.

    Args:
        store: keeps the log.
        folder: the outbox; this process's own.
        tellers: by the method's bare name, what its entry says; a method without one is told by its request alone.
        looks: by the method's bare name, what its teller has to know of the time before.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(
        self,
        store: AdapterStore,
        folder: Path,
        tellers: Mapping[str, Teller],
        looks: Mapping[str, Look] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox, self._tellers, self._clock = Outbox(store.audit, folder), tellers, clock
        self._looks = looks or {}
        self._lock = threading.Lock()
        self._refusals: dict[str, _Refusals] = {}
        self._node = socket.gethostname()

    def begin(self, attempt: Attempt, request: Any) -> _Begun:
        """Notes that a call is about to be carried out."""
        service, _, method = attempt.method.strip("/").rpartition("/")
        entry = AuditEntry(
            id=new_id(),
            at=now(),
            service=cut(f"{service.rpartition('.')[2]} on {self._node}"),
            actor=attempt.principal.label,
            peer=attempt.peer,
            action=method,
            tenant=attempt.principal.tenant or "",
            outcome=UNKNOWN,
            request_id=attempt.request_id,
        )
        self._outbox.begin(entry)
        return _Begun(entry, attempt.principal.key_id, self._look(method, request))

    def end(self, begun: _Begun, outcome: str, request: Any, answer: Any, before: Any = None) -> None:
        """Notes how it ended."""
        if outcome in _REFUSED and not self._counts(begun.key_id):
            log.warning("refused call without an audit entry", action=begun.entry.action, actor=begun.entry.actor)
            self._outbox.drop(begun.entry)
            return
        done = Done(request, answer, begun.entry.at, begun.before if before is None else before)
        told = self._told(begun, done) if outcome == OK else Told()
        target = cut(told.target or _target(request))
        owner = _TENANT.match(target)
        self._outbox.end(
            begun.entry.model_copy(
                update={
                    "target": target,
                    # Of what another tenant tried to reach, the entry stays the caller's own.
                    "tenant": begun.entry.tenant or (owner[1] if owner else ""),
                    "outcome": outcome,
                    "changes": changes_of(told.changes),
                    "reason": cut(told.reason or _text(request, "reason")),
                }
            )
        )

    def note(self, *, actor: str, action: str, told: Told) -> None:
        """Makes an entry of what happened without a call: a key file that was changed."""
        owner = _TENANT.match(told.target)
        self._outbox.end(
            AuditEntry(
                id=new_id(),
                at=now(),
                service=self._node,
                actor=actor,
                action=action,
                target=cut(told.target),
                tenant=owner[1] if owner else "",
                outcome=OK,
                changes=changes_of(told.changes),
                reason=cut(told.reason),
            )
        )

    def keys_changed(self, before: Sequence[OperatorKey], after: Sequence[OperatorKey]) -> None:
        """Notes that the operators' key file was changed."""
        names = [{key.id: f"{key.role.value} {key.name}".strip() for key in keys} for keys in (before, after)]
        changes = [
            (key_id, names[0].get(key_id, ""), names[1].get(key_id, ""))
            for key_id in names[0] | names[1]
            if names[0].get(key_id) != names[1].get(key_id)
        ]
        if changes:
            self.note(actor="whoever may write the key file", action="OperatorKeys", told=Told("operators", changes))

    def head(self) -> Head:
        """Where the chain of this process's entries stands."""
        return self._outbox.head()

    def flush(self, timeout: float) -> bool:
        """Waits until what has ended can be read from the store; tells whether it can."""
        return self._outbox.flush(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Sends what is left."""
        self._outbox.close(timeout)

    def _look(self, method: str, request: Any) -> Any:
        look = self._looks.get(method)
        if look is None or request is None:
            return None
        try:
            return look(request)
        except GraftError:  # the call will say so itself
            return None

    def _told(self, begun: _Begun, done: Done) -> Told:
        teller = self._tellers.get(begun.entry.action)
        if teller is None:
            return Told()
        try:
            return teller(done)
        except Exception as error:  # the call was carried out all the same, and its entry must say so
            log.exception("an audit entry lacks its details", action=begun.entry.action)
            return Told(changes=[("details", "", f"not known: {type(error).__name__}")])

    def _counts(self, key_id: str) -> bool:
        """Whether one more refusal of a key gets an entry."""
        now = self._clock()
        with self._lock:
            mine = self._refusals.pop(key_id, None) or _Refusals(REFUSED_PER_MINUTE, now)
            self._refusals[key_id] = mine  # the newest last
            while len(self._refusals) > _KEYS:
                self._refusals.pop(next(iter(self._refusals)))
            mine.left = min(float(REFUSED_PER_MINUTE), mine.left + (now - mine.at) * REFUSED_PER_MINUTE / 60)
            mine.at = now
            if mine.left < 1:
                return False
            mine.left -= 1
            return True


def _target(request: Any) -> str:
    """What a request is about, by the names that the protocol gives it."""
    inner = request
    if request is not None and "header" in request.DESCRIPTOR.fields_by_name:
        inner = request.header
    for name in ("name", "parent"):
        if text := _text(inner, name):
            return text
    if tenant := _text(inner, "tenant") or _text(inner, "tenant_id"):
        rest = "/".join(filter(None, (_text(inner, name) for name in ("model", "adapter", "version"))))
        return f"tenants/{tenant}" + (f" {rest}" if rest else "")
    return ""


def _text(message: Any, name: str) -> str:
    """A text field of a message; empty where it has none."""
    value = getattr(message, name, "")
    return value if isinstance(value, str) else ""
