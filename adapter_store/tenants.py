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
    InvalidLimit,
    NotFound,
    StoreUnavailable,
    TenantDisabled,
    VersionConflict,
)
from adapter_store.keys import IssuedKey
from adapter_store.manifest import KeyRecord, TenantLimits, TenantRecord
from adapter_store.names import parse_id
from adapter_store.numbered_log import NumberedLog
from adapter_store.paging import Page, read_page

FRESH_S = 5.0
"""Seconds for which `authenticate` trusts a tenant's record without asking the store: how long a key that was revoked
through another process may live on."""
_ASK_AGAIN_S = 1.0  # a key that the cached record does not know may be newer than it; wrong keys cost one read a second
_TRIES = 50  # of a change that lost a race; each loss means that somebody else got on
_MAX_DISPLAY_NAME = 200
MAX_WEIGHT = 1000


class Tenants:
    """All tenants of a store.

    Args:
        backend: the object store.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend, self._clock = backend, clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, TenantRecord]] = {}

    def create(self, tenant: str) -> TenantRecord:
        """Makes a tenant.

        Raises:
            AlreadyExists: it is there.
        """
        now = _now()
        record = TenantRecord(number=1, tenant=parse_id("tenant", tenant), created_at=now, changed_at=now)
        try:
            return self._remember(self._log(tenant).append(record))
        except VersionConflict:
            raise AlreadyExists(f"tenant {tenant} exists already; choose another id") from None

    def get(self, tenant: str) -> TenantRecord:
        """Returns the tenant's current record, straight from the store.

        Raises:
            NotFound: no such tenant.
        """
        record = self._log(tenant).current()
        if record is None:
            raise NotFound(f"tenant {tenant} does not exist; create it first")
        return self._remember(record)

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
    ) -> TenantRecord:
        """Changes what is given and leaves the rest. Nothing is written when nothing changes.

        Args:
            tenant: its id.
            disabled: refused at the door from now on; in other processes within FRESH_S.
            weight: 1 to 1000.
            limits: fields of `manifest.TenantLimits`.
            expected: number of the record that the caller believes is current; None: whatever it is.

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

        return self._change(tenant, change)

    def issue_key(self, tenant: str, display_name: str) -> IssuedKey:
        """Makes an API key. Its secret is in the answer and nowhere else."""
        issued = keys.new_key(parse_id("tenant", tenant), display_name[:_MAX_DISPLAY_NAME], _now())
        self._change(tenant, lambda record: {"keys": (*record.keys, issued.record)})
        return issued

    def revoke_key(self, tenant: str, key_id: str) -> KeyRecord:
        """Makes a key worthless, at once here and within FRESH_S in other processes. Repeating it changes nothing.

        Raises:
            NotFound: the tenant has no key of that id.
        """

        def revoke(record: TenantRecord) -> dict[str, object]:
            if all(key.id != key_id for key in record.keys):
                raise NotFound(f"tenant {tenant} has no key {key_id}; list its keys")
            if all(key.revoked_at for key in record.keys if key.id == key_id):
                return {}
            now = _now()
            revoked = (key.model_copy(update={"revoked_at": now}) if key.id == key_id else key for key in record.keys)
            return {"keys": tuple(revoked)}

        changed = self._change(tenant, revoke)
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

    def _recent(self, tenant: str, age_s: float) -> TenantRecord | None:
        """The tenant's record, not older than `age_s` unless the store is away; None when there is no such tenant."""
        with self._lock:
            known = self._known.get(tenant)
        if known and self._clock() - known[0] < age_s:
            return known[1]
        try:
            record = self._log(tenant).current()
        except StoreUnavailable:
            if known:
                return known[1]
            raise
        return self._remember(record) if record else None

    def _change(self, tenant: str, change: Callable[[TenantRecord], dict[str, object]]) -> TenantRecord:
        """Appends the record that `change` makes of the current one; again with the new one when a race was lost."""
        for _ in range(_TRIES):
            current = self.get(tenant)
            update = change(current)
            if not update:
                return current
            update |= {"number": current.number + 1, "changed_at": _now()}
            try:
                return self._remember(self._log(tenant).append(current.model_copy(update=update)))
            except VersionConflict as conflict:
                lost = conflict
        raise lost

    def _remember(self, record: TenantRecord) -> TenantRecord:
        with self._lock:
            known = self._known.get(record.tenant)
            # A slow reader must not put back a record from before a revocation.
            if known is None or known[1].number <= record.number:
                self._known[record.tenant] = (self._clock(), record)
        return record

    def _log(self, tenant: str) -> NumberedLog[TenantRecord]:
        return NumberedLog(self._backend, layout.tenant_log(tenant), TenantRecord, f"tenant {tenant}")


def _now() -> datetime:
    return datetime.now(UTC)
