"""What each call does to the system, and who may therefore make it: the one table that roles and the audit log go by.

Owns the table. Does not own which tenant a caller may name (`graftwork.rpc.auth`, and each method). A call that the table does
not know counts as a change: a new method is closed to viewers and audited until somebody has thought about it, and a test
fails until then.
"""

from enum import StrEnum

from graftwork.rpc.auth import Forbidden, Principal, Role


class Access(StrEnum):
    """What a call does."""

    READ = "read"
    """Shows records. Viewers may."""
    COMPUTE = "compute"
    """Uses the engines or a worker, and keeps nothing: generation, validation."""
    EXPORT = "export"
    """Takes weights, or what a worker printed, out of the system. Audited."""
    CHANGE = "change"
    """Changes what is kept, who may do something, or what runs where. Audited."""


_READING = ("Get", "List", "Watch")
"""Methods whose names begin so only show records (AIP-131, AIP-132)."""

_NAMED = {
    "DiffVersions": Access.READ,
    "EstimateJob": Access.READ,
    "ExplainRecipe": Access.READ,
    "VerifyAuditLog": Access.READ,
    "VerifyVersion": Access.READ,
    "Generate": Access.COMPUTE,
    "ValidateDataset": Access.COMPUTE,
    "DownloadVersion": Access.EXPORT,
    "MergeVersion": Access.EXPORT,
    "ReadJobLog": Access.EXPORT,
    "CancelJob": Access.CHANGE,
    "CreateApiKey": Access.CHANGE,
    "CreateJob": Access.CHANGE,
    "CreateTenant": Access.CHANGE,
    "DeleteAdapter": Access.CHANGE,
    "DeleteAlias": Access.CHANGE,
    "DeleteDataset": Access.CHANGE,
    "DeleteVersion": Access.CHANGE,
    "Demote": Access.CHANGE,
    "Drain": Access.CHANGE,
    "Evict": Access.CHANGE,
    "Pin": Access.CHANGE,
    "Prefetch": Access.CHANGE,
    "Promote": Access.CHANGE,
    "RegisterAdapter": Access.CHANGE,
    "ResumeJob": Access.CHANGE,
    "RevokeApiKey": Access.CHANGE,
    "RollbackAlias": Access.CHANGE,
    "SetAlias": Access.CHANGE,
    "SetAliasPolicy": Access.CHANGE,
    "SignVersion": Access.CHANGE,
    "UpdateTenant": Access.CHANGE,
    "UploadDataset": Access.CHANGE,
}


def known(method: str) -> bool:
    """Whether somebody has said what a method does; `method` is its bare name or `/package.Service/Method`."""
    name = method.rpartition("/")[2]
    return name in _NAMED or name.startswith(_READING)


def access_of(method: str) -> Access:
    """Returns what a call does.

    Args:
        method: its bare name, or `/package.Service/Method`.
    """
    name = method.rpartition("/")[2]
    return Access.READ if name.startswith(_READING) else _NAMED.get(name, Access.CHANGE)


def is_audited(method: str) -> bool:
    """Whether a call leaves an entry in the audit log."""
    return access_of(method) in (Access.CHANGE, Access.EXPORT)


def require_access(principal: Principal, access: Access) -> None:
    """Raises Forbidden when the caller's role does not let it do that at all."""
    if principal.role is Role.VIEWER and access is not Access.READ:
        raise Forbidden(
            "a viewer's key only looks: it cannot change, generate or take out anything; use an operator's key"
        )
