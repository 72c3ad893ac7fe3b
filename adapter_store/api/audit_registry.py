"""What the registry's calls leave in the audit log: from what, to what.

Owns one teller for each of them. A numbered log's record of before is the one below the number that the call made. A call that
found things as it wanted them, or that was carried out before, has made none, and tells no change: what its answer speaks of is
older than the call.
"""

from datetime import UTC, datetime
from typing import Any

from adapter_store.api.audit_trail import Done, Teller, Told
from adapter_store.audit import differing, pointing
from adapter_store.manifest import KeyRecord, TenantRecord
from adapter_store.names import AliasName, DatasetName, TenantName, VersionName
from adapter_store.store import AdapterStore

Changes = list[tuple[str, object, object]]


def registry_tellers(store: AdapterStore) -> dict[str, Teller]:
    """Returns the tellers by method; they ask the store."""
    told = _Registry(store)
    return {
        "CreateTenant": _tenant_made,
        "UpdateTenant": told.tenant,
        "CreateApiKey": told.key_made,
        "RevokeApiKey": _key_revoked,
        "SetAlias": told.alias,
        "RollbackAlias": told.alias,
        "SetAliasPolicy": told.alias,
        "DeleteAlias": told.alias,
        "DeleteVersion": _deleted,
        "DeleteDataset": _deleted,
        "DeleteAdapter": _adapter_deleted,
        "RegisterAdapter": told.registered,
        "SignVersion": _signed,
    }


def appeared(store: AdapterStore, name: VersionName | DatasetName, made: Any, began: datetime) -> tuple[bool, str]:
    """Whether a call made something, or took it back from its deletion, and what it was before.

    Args:
        store: where it is.
        name: of a version or a data set.
        made: the answer's message, with its `create_time`.
        began: when the call did.
    """
    if _moment(made.create_time) >= began:
        return True, ""
    revived = store.removal.revived_at(name)
    return (True, "deleted") if revived is not None and revived >= began else (False, "")


def _moment(stamp: Any) -> datetime:
    moment: datetime = stamp.ToDatetime(UTC)
    return moment


def _tenant_made(call: Done) -> Told:
    made = _moment(call.answer.create_time) >= call.began
    return Told(call.answer.name, [("tenant", "", "created")] if made else [])


def _key_revoked(call: Done) -> Told:
    key = call.answer
    now = _moment(key.revoke_time) >= call.began
    return Told(call.request.parent, [(f"key {key.id}", _good(key.display_name), "revoked")] if now else [])


def _good(display_name: str) -> str:
    return f"good {display_name}".strip()


def _deleted(call: Done) -> Told:
    if _moment(call.answer.create_time) < call.began:
        return Told(call.request.name)
    until = call.answer.purge_time.ToDatetime().isoformat(timespec="seconds")
    return Told(call.request.name, [("state", "there", f"deleted, its bytes kept until {until}Z")])


def _adapter_deleted(call: Done) -> Told:
    now = [gone for gone in call.answer.versions if _moment(gone.create_time) >= call.began]
    if not now and call.answer.versions:
        return Told(call.request.name)
    return Told(call.request.name, [("adapter", "there", f"deleted, with {len(now)} versions")])


def _signed(call: Done) -> Told:
    made = f"key {call.answer.key_id} over manifest {call.answer.manifest_sha256}"
    return Told(changes=[("signature", "", made)] if _moment(call.answer.create_time) >= call.began else [])


class _Registry:
    """Tellers that have to know what was before."""

    def __init__(self, store: AdapterStore) -> None:
        self._store = store

    def tenant(self, call: Done) -> Told:
        name = TenantName.parse(call.answer.name).tenant
        after = self._store.tenants.at(name, call.answer.number)
        if after.changed_at < call.began:
            return Told(call.answer.name)
        return Told(
            call.answer.name,
            differing(_settings(self._store.tenants.at(name, call.answer.number - 1)), _settings(after)),
        )

    def key_made(self, call: Done) -> Told:
        key = call.answer.key
        changes: Changes = [(f"key {key.id}", "", _good(key.display_name))]
        if call.request.request_id:  # a repeat, whose first answer was lost, revokes the key that was in it
            changes = [*self._lost(call), *changes]
        return Told(call.request.parent, changes)

    def _lost(self, call: Done) -> Changes:
        def lost(key: KeyRecord) -> bool:
            mine = key.request_id == call.request.request_id and key.id != call.answer.key.id
            return mine and key.revoked_at is not None and key.revoked_at >= call.began

        record = self._store.tenants.get(TenantName.parse(call.request.parent).tenant)
        return [
            (f"key {key.id}", _good(key.display_name), "revoked, its text was lost") for key in record.keys if lost(key)
        ]

    def alias(self, call: Done) -> Told:
        return Told(call.answer.name, self._moved(call.answer, call.began))

    def registered(self, call: Done) -> Told:
        version = call.answer.version
        new, before = appeared(self._store, VersionName.parse(version.name), version, call.began)
        changes: Changes = []
        if new:
            changes.append(("version", before, f"registered, sha256 {version.manifest_sha256} of its manifest"))
        moved = self._moved(call.answer.alias, call.began) if call.answer.HasField("alias") else []
        alias = call.answer.alias.name.rpartition("/")[2]
        return Told(
            version.name,
            [*changes, *((f"alias {alias}: {field}", before, after) for field, before, after in moved)],
        )

    def _moved(self, alias: Any, began: datetime) -> Changes:
        name = AliasName.parse(alias.name)
        place = name.tenant, name.adapter, name.alias
        after = self._store.aliases.at(*place, alias.number)
        if after.at < began:
            return []
        before = pointing(self._store.aliases.at(*place, alias.number - 1)) if alias.number > 1 else {}
        return differing(before, pointing(after))


def _settings(record: TenantRecord) -> dict[str, object]:
    return {"disabled": record.disabled, "weight": record.weight, **record.limits.model_dump()}
