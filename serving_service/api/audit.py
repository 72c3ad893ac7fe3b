"""What serving's calls leave in the audit log. Owns one teller for each of the operators' calls that change what runs where."""

from typing import Any

from adapter_store.api.audit_trail import Done, Teller, Told
from adapter_store.names import VersionName
from graftwork.v1 import serving_pb2


def serving_tellers() -> dict[str, Teller]:
    """Returns the tellers by method."""
    return {"Prefetch": _prefetched, "Pin": _pinned, "Evict": _evicted, "Promote": _merged, "Demote": _merged}


def _prefetched(call: Done) -> Told:
    return Told(
        _version(call.answer), [("tier", "", serving_pb2.Tier.Name(call.answer.tier).removeprefix("TIER_").lower())]
    )


def _pinned(call: Done) -> Told:
    return Told(_version(call.answer), [("pinned", call.request.unpin, not call.request.unpin)])


def _evicted(call: Done) -> Told:
    target = f"tenants/{call.request.tenant}/adapters/{call.request.adapter}/versions/{call.request.version}"
    return Told(target, [("resident", "yes", f"no, {call.answer.freed_disk_bytes} bytes of disk freed")])


def _merged(call: Done) -> Told:
    state = serving_pb2.MergedState.Name(call.answer.state).removeprefix("MERGED_STATE_").lower()
    return Told(_version(call.answer), [("merged", "", state)])


def _version(answer: Any) -> str:
    return str(VersionName(answer.tenant, answer.adapter, answer.version))
