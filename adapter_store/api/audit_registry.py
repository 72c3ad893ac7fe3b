"""What the registry's calls leave in the audit log: from what, to what.

Owns one teller for each of them. A numbered log's record of before is the one below the number that the call made. A call that
found things as it wanted them, or that was carried out before, has made none, and tells no change.
"""

from datetime import datetime
from typing import Any

from adapter_store.api.audit_trail import Done, Teller, Told
from adapter_store.audit import differing, pointing
from adapter_store.manifest import TenantRecord
from adapter_store.names import AliasName, TenantName
from adapter_store.store import AdapterStore


def registry_tellers(store: AdapterStore) -> dict[str, Teller]:
    """Returns the tellers by method; they ask the store."""
    told = _Registry(store)
    return {
        "CreateTenant": lambda call: Told(call.answer.name, [("tenant", "", "created")]),
        "UpdateTenant": told.tenant,
        "CreateApiKey": lambda call: Told(
            call.request.parent, [(f"key {call.answer.key.id}", "", _key(call.answer.key))]
        ),
        "RevokeApiKey": lambda call: Told(
            call.request.parent, [(f"key {call.answer.id}", _key(call.answer), "revoked")]
        ),
        "SetAlias": told.alias,
        "RollbackAlias": told.alias,
        "SetAliasPolicy": told.alias,
        "DeleteAlias": told.alias,
        "DeleteVersion": _deleted,
        "DeleteDataset": _deleted,
        "DeleteAdapter": lambda call: Told(
            call.request.name, [("adapter", "there", f"deleted, with {len(call.answer.versions)} versions")]
        ),
        "RegisterAdapter": told.registered,
        "SignVersion": lambda call: Told(
            changes=[("signature", "", f"key {call.answer.key_id} over manifest {call.answer.manifest_sha256}")]
        ),
    }


def _key(key: Any) -> str:
    return f"good {key.display_name}".strip()


def _deleted(call: Done) -> Told:
    until = call.answer.purge_time.ToDatetime().isoformat(timespec="seconds")
    return Told(call.request.name, [("state", "there", f"deleted, its bytes kept until {until}Z")])


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

    def alias(self, call: Done) -> Told:
        return Told(call.answer.name, self._moved(call.answer, call.began))

    def registered(self, call: Done) -> Told:
        moved = self._moved(call.answer.alias, call.began) if call.answer.HasField("alias") else []
        alias = call.answer.alias.name.rpartition("/")[2]
        changes = [("version", "", f"registered, sha256 {call.answer.version.manifest_sha256} of its manifest")]
        return Told(
            call.answer.version.name,
            [*changes, *((f"alias {alias}: {field}", before, after) for field, before, after in moved)],
        )

    def _moved(self, alias: Any, began: datetime) -> list[tuple[str, object, object]]:
        name = AliasName.parse(alias.name)
        place = name.tenant, name.adapter, name.alias
        after = self._store.aliases.at(*place, alias.number)
        if after.at < began:
            return []
        before = pointing(self._store.aliases.at(*place, alias.number - 1)) if alias.number > 1 else {}
        return differing(before, pointing(after))


def _settings(record: TenantRecord) -> dict[str, object]:
    return {"disabled": record.disabled, "weight": record.weight, **record.limits.model_dump()}
