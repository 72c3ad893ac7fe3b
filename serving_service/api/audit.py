"""What serving's calls leave in the audit log. Owns one teller for each of the operators' calls that change what runs where.

What was before comes from the core, told at the moment of the change (`graftwork.rpc.audit.found_before`).
"""

import socket
from typing import Any

from adapter_store.api.audit_trail import Done, Teller, Told
from adapter_store.audit import differing
from adapter_store.names import VersionName
from graftwork.v1 import serving_pb2
from serving_service.core.adapter_entry import NOT_HERE, Standing
from serving_service.core.fast_path.life import MergedRow


def serving_tellers() -> dict[str, Teller]:
    """Returns the tellers by method."""
    return {
        "Prefetch": _held,
        "Pin": _held,
        "Evict": _evicted,
        "Promote": _promoted,
        "Demote": _demoted,
        "Drain": _drained,
    }


def _held(call: Done) -> Told:
    tier = serving_pb2.Tier.Name(call.answer.tier).removeprefix("TIER_").lower()
    after = {"pinned": call.answer.pinned, "tier": tier}
    return Told(_version(call.answer), differing(_standing(call.before), after))


def _evicted(call: Done) -> Told:
    target = str(VersionName(call.request.tenant, call.request.adapter, call.request.version))
    changes = differing(_standing(call.before), _standing(NOT_HERE))
    return Told(target, [*changes, ("bytes on disk", call.answer.freed_disk_bytes, 0)])


def _promoted(call: Done) -> Told:
    return _merged(call, serving_pb2.MergedState.Name(call.answer.state).removeprefix("MERGED_STATE_").lower())


def _demoted(call: Done) -> Told:
    # The answer does not wait for the requests in flight: its state may still be that of before.
    gone = call.answer.state in (serving_pb2.MERGED_STATE_GONE, serving_pb2.MERGED_STATE_UNSPECIFIED)
    return _merged(call, "gone" if gone else "ending")


def _drained(call: Done) -> Told:
    after = {"draining": "yes" if call.answer.draining else "no"}
    return Told(f"nodes/{socket.gethostname()}", differing({"draining": call.before}, after))


def _merged(call: Done, state: str) -> Told:
    after = {"merged": state, "wanted by": ", ".join(call.answer.wanted_by)}
    return Told(_version(call.answer), differing(_wishes(call.before), after))


def _standing(standing: Standing) -> dict[str, object]:
    return {"pinned": standing.pinned, "tier": standing.tier.value}


def _wishes(row: MergedRow | None) -> dict[str, object]:
    return {"merged": row.state.value if row else "", "wanted by": ", ".join(row.wanted_by) if row else ""}


def _version(answer: Any) -> str:
    return str(VersionName(answer.tenant, answer.adapter, answer.version))
