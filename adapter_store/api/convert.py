"""Store records to protobuf messages. Converts only: no store call, no check."""

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from adapter_store.audit import AuditEntry, Verdict
from adapter_store.diff import ModuleDiff, ValueDiff
from adapter_store.manifest import (
    AdapterRecord,
    AliasRecord,
    DatasetFinding,
    DatasetFormat,
    DatasetManifest,
    DeletionRecord,
    FileRecord,
    KeyRecord,
    TenantRecord,
    VersionManifest,
)
from adapter_store.names import AdapterName, AliasName, DatasetName, TenantName, VersionName
from adapter_store.signatures import KeptSignature
from graftwork.rpc.auth import Principal, Role
from graftwork.v1 import common_pb2
from graftwork.v1 import registry_pb2 as pb

_FORMATS: dict[DatasetFormat, common_pb2.DatasetFormat] = {
    "jsonl": common_pb2.DATASET_FORMAT_JSONL,
    "parquet": common_pb2.DATASET_FORMAT_PARQUET,
}
_LEVELS = {"info": common_pb2.Finding.LEVEL_INFO, "warning": common_pb2.Finding.LEVEL_WARNING}


def timestamp(moment: datetime | None) -> Timestamp | None:
    """UTC time to protobuf; None stays unset."""
    if moment is None:
        return None
    result = Timestamp()
    result.FromDatetime(moment)
    return result


_ROLES = {
    Role.OPERATOR: pb.Caller.ROLE_OPERATOR,
    Role.VIEWER: pb.Caller.ROLE_VIEWER,
    Role.TENANT: pb.Caller.ROLE_TENANT,
}


def caller(principal: Principal) -> pb.Caller:
    return pb.Caller(
        role=_ROLES[principal.role], tenant=principal.tenant or "", key_id=principal.key_id, name=principal.name
    )


def tenant(record: TenantRecord) -> pb.Tenant:
    return pb.Tenant(
        name=str(TenantName(record.tenant)),
        disabled=record.disabled,
        create_time=timestamp(record.created_at),
        number=record.number,
        weight=record.weight,
        limits=pb.TenantLimits(**record.limits.model_dump()),
    )


def key(record: KeyRecord) -> pb.ApiKey:
    return pb.ApiKey(
        id=record.id,
        display_name=record.display_name,
        create_time=timestamp(record.created_at),
        revoke_time=timestamp(record.revoked_at),
    )


def alias(record: AliasRecord) -> pb.Alias:
    return pb.Alias(
        name=str(AliasName(record.tenant, record.adapter, record.alias)),
        version=record.version,
        number=record.number,
        set_by=record.by,
        reason=record.reason,
        create_time=timestamp(record.at),
        removed=record.removed,
        restores=record.restores,
        split=[pb.AliasShare(version=share.version, weight=share.weight) for share in record.split],
        route=record.route,
        first_token_ms=record.target.first_token_ms,
        between_tokens_ms=record.target.between_tokens_ms,
    )


def audit_entry(entry: AuditEntry, *, with_peer: bool) -> pb.AuditEntry:
    return pb.AuditEntry(
        id=entry.id,
        create_time=timestamp(entry.at),
        service=entry.service,
        actor=entry.actor,
        peer=entry.peer if with_peer else "",
        action=entry.action,
        target=entry.target,
        tenant=str(TenantName(entry.tenant)) if entry.tenant else "",
        outcome=entry.outcome,
        changes=[pb.AuditChange(**change.model_dump()) for change in entry.changes],
        reason=entry.reason,
        request_id=entry.request_id,
        writer=entry.writer,
        number=entry.number,
    )


def audit_report(verdict: Verdict) -> pb.AuditReport:
    return pb.AuditReport(
        entries=verdict.entries,
        unchained=verdict.unchained,
        chains=[
            pb.AuditChain(
                writer=chain.writer,
                number=chain.number,
                service=chain.service,
                create_time=timestamp(chain.at),
                vouched=chain.vouched,
            )
            for chain in verdict.chains
        ],
        problems=[
            pb.AuditProblem(
                kind=f"KIND_{problem.kind.name}",
                object=problem.name,
                writer=problem.writer,
                number=problem.number,
                last_number=problem.last,
                text=problem.text,
            )
            for problem in verdict.problems
        ],
    )


def deletion(name: object, record: DeletionRecord) -> pb.Deletion:
    return pb.Deletion(name=str(name), create_time=timestamp(record.at), purge_time=timestamp(record.purge_after))


def dataset(manifest: DatasetManifest) -> common_pb2.Dataset:
    return common_pb2.Dataset(
        name=str(DatasetName(manifest.tenant, manifest.id)),
        display_name=manifest.display_name,
        sha256=manifest.sha256,
        size_bytes=manifest.size,
        rows=manifest.rows,
        format=_FORMATS[manifest.format],
        create_time=timestamp(manifest.created_at),
        findings=map(_finding, manifest.findings),
    )


def _finding(found: DatasetFinding) -> common_pb2.Finding:
    return common_pb2.Finding(level=_LEVELS[found.level], **found.model_dump(exclude={"level"}))


def adapter(record: AdapterRecord) -> pb.Adapter:
    return pb.Adapter(
        name=str(AdapterName(record.tenant, record.adapter)), aliases=[alias(item) for item in record.aliases]
    )


def file(record: FileRecord) -> pb.File:
    return pb.File(path=record.path, sha256=record.sha256, size_bytes=record.size)


def value_diff(diff: ValueDiff) -> pb.ValueDiff:
    return pb.ValueDiff(section=diff.section, field=diff.field, one=diff.one, other=diff.other)


def module_diff(diff: ModuleDiff) -> pb.ModuleDiff:
    return pb.ModuleDiff(
        module=diff.module,
        norm_one=diff.norm_one,
        norm_other=diff.norm_other,
        norm_difference=diff.norm_difference,
    )


def signature(kept: KeptSignature) -> pb.VersionSignature:
    record = kept.record
    return pb.VersionSignature(
        key_id=record.key_id,
        public_key=bytes.fromhex(record.public_key),
        manifest_sha256=record.manifest_sha256,
        signature=bytes.fromhex(record.signature),
        signed_by=record.by,
        create_time=timestamp(record.at),
        problem=kept.problem,
    )


def version(manifest: VersionManifest, signatures: Iterable[KeptSignature] = ()) -> pb.Version:
    metrics, recipe, config = Struct(), Struct(), Struct()
    metrics.update(manifest.made.metrics)
    recipe.update(manifest.made.recipe)
    config.update(manifest.config)
    return pb.Version(
        name=str(VersionName(manifest.tenant, manifest.adapter, manifest.version)),
        create_time=timestamp(manifest.created_at),
        files=map(file, manifest.files),
        base_model=manifest.base_model,
        base_digest=manifest.base_digest,
        rank=manifest.rank,
        alpha=manifest.alpha,
        target_modules=manifest.target_modules,
        dtype=manifest.dtype,
        parameters=manifest.parameters,
        size_bytes=manifest.size,
        made_by=manifest.made.made_by,
        metrics=metrics,
        recipe=recipe,
        dataset_sha256=manifest.made.dataset_sha256,
        package_versions=manifest.made.package_versions,
        template_digest=manifest.template_digest,
        base_revision=manifest.base_revision or "",
        tokenizer_digest=manifest.tokenizer_digest,
        seed=manifest.made.seed,
        config=config,
        manifest_sha256=manifest.document_sha256,
        signatures=map(signature, signatures),
    )
