"""Tenants and their API keys, as a numbered log per tenant.

Owns creation, switching off, keys and authentication. Does not own limits' enforcement or who may call this.
"""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from adapter_store import keys, layout
from adapter_store.backends.protocol import Backend
from adapter_store.errors import (
    AlreadyExists,
    InvalidKey,
    InvalidLimit,
    InvalidName,
    NotFound,
    StoreUnavailable,
    TenantDisabled,
    VersionConflict,
)
from adapter_store.idempotency import Request, made_by, marks
from adapter_store.inquiries import Inquiries
from adapter_store.keys import IssuedKey
from adapter_store.manifest import KeyRecord, TenantLimits, TenantRecord
from adapter_store.names import NOBODY, parse_id
from adapter_store.numbered_log import NumberedLog
from adapter_store.outage import Outage
from adapter_store.paging import Page, read_page, slice_page

FRESH_S = 4.0
"""Seconds for which `authenticate` trusts a tenant's record without asking the store: how long a key that was revoked
through another process may live on. Promised are 5; the rest is for the call that asks."""
_PATIENCE_S = (
    5.0  # with a store that does not answer, before a known tenant's record is used although it is old; a store
)
# that is only slow must not keep a revoked key alive
_FEW_KEYS = 64  # are compared without leaving the caller's thread
_ASK_AGAIN_S = 1.0  # a key that the cached record does not know may be newer than it; wrong keys cost one read a second
_TRIES = 50  # of a change that lost a race; each loss means that somebody else got on
_MAX_DISPLAY_NAME = 200
MAX_WEIGHT = 1000


class Tenants:
    """All tenants of a store.

    Args:
        backend: the object store.
        clock: seconds, monotonic; replaced in tests.
        outage: what is known of the store; shared with others that ask it.
    """

    def __init__(
        self, backend: Backend, clock: Callable[[], float] = time.monotonic, outage: Outage | None = None
    ) -> None:
        self._backend, self._clock = backend, clock
        self._inquiries: Inquiries[str, tuple[float, TenantRecord | None]] = Inquiries(outage or Outage(clock))
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, TenantRecord]] = {}

    def create(self, tenant: str, request: Request | None = None) -> TenantRecord:
        """Makes a tenant; a request that made it before gets its first answer.

        Raises:
            AlreadyExists: it is there.
        """
        now, noted = _now(), marks(None, request, 1)
        if tenant == NOBODY:
            raise InvalidName(f"{tenant} is reserved; choose another id")
        record = TenantRecord(
            number=1, tenant=parse_id("tenant", tenant), created_at=now, changed_at=now, requests=noted
        )
        log = self._log(tenant)
        try:
            return self._remember(log.append(record))
        except VersionConflict:
            if made_by(log.current(), request) == 1:
                return log.at(1)
            raise AlreadyExists(f"tenant {tenant} exists already; choose another id") from None

    def get(self, tenant: str) -> TenantRecord:
        """Returns the tenant's current record, straight from the store.

        Raises:
            NotFound: no such tenant.
        """
        asked = self._clock()
        record = self._log(tenant).current()
        if record is None:
            raise NotFound(f"tenant {tenant} does not exist; list tenants, or create it")
        return self._remember(record, asked)

    def at(self, tenant: str, number: int) -> TenantRecord:
        """Returns the record of a number that the tenant is known to have had. Raises CorruptRecord when it is gone."""
        return self._log(tenant).at(number)

    def list(self, page_size: int = 0, page_token: str = "") -> Page[TenantRecord]:
        """Returns tenants in the order of their ids."""
        return read_page(
            self._backend,
            layout.TENANTS,
            page_size,
            page_token,
            lambda name: self._log(name.removesuffix("/")).current(),
        )

    def set_disabled(self, tenant: str, disabled: bool) -> TenantRecord:
        """Switches a tenant off or on. A tenant that is off is refused at the door; what it has stored stays."""
        return self._change(tenant, lambda record: {"disabled": disabled} if record.disabled != disabled else {})

    def update(
        self,
        tenant: str,
        *,
        disabled: bool | None = None,
        weight: int | None = None,
        limits: Mapping[str, int] | None = None,
        expected: int | None = None,
        request: Request | None = None,
    ) -> TenantRecord:
        """Changes what is given and leaves the rest. Nothing is written when nothing changes.

        Args:
            tenant: its id.
            disabled: refused at the door from now on; in other processes within FRESH_S.
            weight: 1 to 1000.
            limits: fields of `manifest.TenantLimits`.
            expected: number of the record that the caller believes is current; None: whatever it is.
            request: when it made a record of this tenant before, that one is the answer and nothing is written.

        Raises:
            InvalidLimit: a weight or a limit outside its bounds.
            NotFound: no such tenant.
            VersionConflict: the current number is not `expected`.
        """
        if weight is not None and not 1 <= weight <= MAX_WEIGHT:
            raise InvalidLimit(f"weight {weight} is not between 1 and {MAX_WEIGHT}")
        for name, value in (limits or {}).items():
            if name not in TenantLimits.model_fields or not 0 <= value < 2**53:
                raise InvalidLimit(f"{name}={value} is no limit; use 0 (unlimited) or more")

        def change(record: TenantRecord) -> dict[str, object]:
            if expected is not None and record.number != expected:
                raise VersionConflict(
                    f"tenant {tenant} is at number {record.number}, not {expected}; read it and try again",
                    record.number,
                )
            wanted: dict[str, object] = {
                "disabled": record.disabled if disabled is None else disabled,
                "weight": weight or record.weight,
                "limits": record.limits.model_copy(update=dict(limits or {})),
            }
            return {name: value for name, value in wanted.items() if getattr(record, name) != value}

        return self._change(tenant, change, request)

    def issue_key(self, tenant: str, display_name: str, request: Request | None = None) -> IssuedKey:
        """Makes an API key. Its secret is in the answer and nowhere else.

        Hence a request that comes again, because that answer was lost, gets another key, and the first is revoked.
        """
        now = _now()
        issued = keys.new_key(
            parse_id("tenant", tenant), display_name[:_MAX_DISPLAY_NAME], now, request.id if request else ""
        )

        def add(record: TenantRecord) -> dict[str, object]:
            kept = record.keys
            if request and made_by(record, request) is not None:
                kept = tuple(key if key.request_id != request.id else _revoked(key, now) for key in kept)
            return {"keys": (*kept, issued.record)}

        self._change(tenant, add, request, again=True)
        return issued

    def list_keys(self, tenant: str, page_size: int = 0, page_token: str = "") -> Page[KeyRecord]:
        """Returns a tenant's keys in the order in which they were issued. Raises NotFound: no such tenant."""
        return slice_page(f"{tenant}/keys", self.get(tenant).keys, lambda key: key.id, page_size, page_token)

    def revoke_key(self, tenant: str, key_id: str, request: Request | None = None) -> KeyRecord:
        """Makes a key worthless, at once here and within FRESH_S in other processes. Repeating it changes nothing.

        Raises:
            NotFound: the tenant has no key of that id.
        """

        def revoke(record: TenantRecord) -> dict[str, object]:
            if all(key.id != key_id for key in record.keys):
                raise keys.missing(key_id)
            if all(key.revoked_at for key in record.keys if key.id == key_id):
                return {}
            now = _now()
            return {"keys": tuple(key if key.id != key_id else _revoked(key, now) for key in record.keys)}

        changed = self._change(tenant, revoke, request)
        return next(key for key in changed.keys if key.id == key_id)

    def authenticate(self, secret: str) -> TenantRecord:
        """Returns the tenant that a key belongs to. Goes on with what it knows while the store is away.

        Raises:
            InvalidKey: malformed, unknown or revoked.
            TenantDisabled: the key is good, its tenant is switched off.
            StoreUnavailable: the store is away and nothing is known about the tenant.
        """
        tenant = keys.tenant_of(secret)
        record = self._recent(tenant, FRESH_S)
        if record and keys.find(secret, record.keys) is None:
            record = self._recent(tenant, _ASK_AGAIN_S)
        if record is None or keys.find(secret, record.keys) is None:
            raise keys.refused()
        if record.disabled:
            raise TenantDisabled(f"tenant {tenant} is disabled; ask the operator")
        return record

    def recall(self, secret: str) -> TenantRecord | None:
        """Like `authenticate`, from memory only: None when the store must be asked, or the key is not good."""
        try:
            tenant = keys.tenant_of(secret)
        except InvalidKey:
            return None
        with self._lock:
            asked, record = self._known.get(tenant, (0.0, None))
        if record is None or record.disabled or self._clock() - asked >= FRESH_S or len(record.keys) > _FEW_KEYS:
            return None
        return record if keys.find(secret, record.keys) is not None else None

    def _recent(self, tenant: str, age_s: float) -> TenantRecord | None:
        """The tenant's record, not older than `age_s` unless the store is away; None when there is no such tenant."""
        oldest = self._clock() - age_s
        while True:
            with self._lock:
                known = self._known.get(tenant)
            if known and known[0] > oldest:
                return known[1]
            try:
                flight = self._inquiries.ask(tenant, lambda: self._ask(tenant))
                asked, record = self._inquiries.wait(flight, _PATIENCE_S) if known else flight.result()
            except (StoreUnavailable, TimeoutError):
                if known:
                    return known[1]
                raise
            # Else look again: it may have been asked by somebody who came long before us, or be older than a change made here.
            if record is None and asked > oldest:
                return None

    def _ask(self, tenant: str) -> tuple[float, TenantRecord | None]:
        asked = self._clock()
        record = self._log(tenant).current()
        return asked, self._remember(record, asked) if record else None

    def _change(
        self,
        tenant: str,
        change: Callable[[TenantRecord], dict[str, object]],
        request: Request | None = None,
        *,
        again: bool = False,
    ) -> TenantRecord:
        """Appends the record that `change` makes of the current one; again with the new one when a race was lost.

        A request that made a record before gets that one, unless its change is to be made `again`.
        """
        for _ in range(_TRIES):
            current = self.get(tenant)
            made = made_by(current, request)
            if made is not None and not again:
                return self._log(tenant).at(made)
            update = change(current)
            if not update:
                return current
            number = current.number + 1
            update |= {"number": number, "changed_at": _now(), "requests": marks(current, request, number)}
            try:
                return self._remember(self._log(tenant).append(current.model_copy(update=update)))
            except VersionConflict as conflict:
                lost = conflict
        raise lost

    def _remember(self, record: TenantRecord, asked: float | None = None) -> TenantRecord:
        """Keeps a record as of the moment at which the store was asked: its answer may have taken seconds, and a key may
        have been revoked behind it."""
        stamp = self._clock() if asked is None else asked
        with self._lock:
            known = self._known.get(record.tenant)
            # A slow reader must not put back a record from before a revocation, nor an older moment for the same one.
            if known is None or (known[1].number, known[0]) <= (record.number, stamp):
                self._known[record.tenant] = (stamp, record)
        return record

    def _log(self, tenant: str) -> NumberedLog[TenantRecord]:
        return NumberedLog(self._backend, layout.tenant_log(tenant), TenantRecord, f"tenant {tenant}")


def _revoked(key: KeyRecord, now: datetime) -> KeyRecord:
    return key if key.revoked_at else key.model_copy(update={"revoked_at": now})


def _now() -> datetime:
    return datetime.now(UTC)
