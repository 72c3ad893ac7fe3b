"""Adapters, versions and aliases: results, and the calls that give them. Moving their files is `adapter_files.py`'s."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from graftwork.sdk.calls import FILE_TIMEOUT_S, Api, Call, Listing
from graftwork.sdk.datasets import Deletion
from graftwork.sdk.names import last_id
from graftwork.sdk.reading import read_fields, read_struct, read_time
from graftwork.sdk.signatures import Signature
from graftwork.sdk.tenants import new_request_id
from graftwork.v1 import registry_pb2 as pb


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that points at a version, as one numbered record.

    Attributes:
        id: `prod`. name: `tenants/acme/adapters/support/aliases/prod`.
        version: digest; of a split the heaviest one.
        split: digest -> weight of versions that share the requests; empty when all go to `version`.
        route: swapped or merged: how requests are to be served.
        number: of this record, from 1. restores: number of the record that a roll-back returned to; 0: none.
        set_by, reason: who and why. set_at: UTC.
        removed: the alias was deleted; only seen in a history.
    """

    id: str
    name: str
    version: str
    split: Mapping[str, int]
    route: str
    number: int
    restores: int
    set_by: str
    reason: str
    set_at: datetime | None
    removed: bool

    @classmethod
    def of(cls, message: pb.Alias) -> "Alias":
        return cls(
            id=last_id(message.name),
            name=message.name,
            version=message.version,
            split={share.version: share.weight for share in message.split},
            route=message.route,
            number=message.number,
            restores=message.restores,
            set_by=message.set_by,
            reason=message.reason,
            set_at=read_time(message, "create_time"),
            removed=message.removed,
        )


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter.

    Attributes:
        id: `support`. name: `tenants/acme/adapters/support`.
        aliases: current ones, by id.
    """

    id: str
    name: str
    aliases: Mapping[str, Alias]

    @classmethod
    def of(cls, message: pb.Adapter) -> "Adapter":
        aliases = map(Alias.of, message.aliases)
        return cls(last_id(message.name), message.name, {alias.id: alias for alias in aliases})


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable version.

    Attributes:
        digest: sha256 of its content, hex. name: `tenants/acme/adapters/support/versions/<digest>`.
        created: UTC.
        files: name -> bytes. size_bytes: of all together.
        base_model, base_revision, base_digest: the backbone that it fits; `base_revision` of the model hub, empty where unknown.
        tokenizer_digest, template_digest: sha256 of the tokenizer's files and of the chat template, hex; empty where unknown.
        rank, alpha, target_modules, dtype, parameters: of the adapter.
        config: the adapter's settings that change what it computes.
        made_by: the job's name, or 'registered by ...'. package_versions: that made it.
        metrics, recipe, seed: of the training; empty and None for a registered one.
        dataset_sha256: what it was trained on, hex; empty where unknown.
        manifest_sha256: of the stored manifest, hex; what signatures are made over.
        signatures: all of them. signed_by: key ids whose signatures fit; whether to trust a key is yours to decide.
    """

    digest: str
    name: str
    created: datetime | None
    files: Mapping[str, int]
    size_bytes: int
    base_model: str
    base_revision: str
    base_digest: str
    tokenizer_digest: str
    template_digest: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    dtype: str
    parameters: int
    config: Mapping[str, Any]
    made_by: str
    package_versions: Mapping[str, str]
    metrics: Mapping[str, Any]
    recipe: Mapping[str, Any]
    seed: int | None
    dataset_sha256: str
    manifest_sha256: str
    signatures: tuple[Signature, ...]

    @property
    def signed_by(self) -> tuple[str, ...]:
        """Ids of the keys whose signatures fit the manifest."""
        return tuple(signature.key_id for signature in self.signatures if not signature.problem)

    @classmethod
    def of(cls, message: pb.Version) -> "Version":
        same = read_fields(
            message,
            "name size_bytes base_model base_revision base_digest tokenizer_digest template_digest rank alpha dtype parameters "
            "made_by dataset_sha256 manifest_sha256",
        )
        return cls(
            **same,
            digest=last_id(message.name),
            created=read_time(message, "create_time"),
            files={file.path: file.size_bytes for file in message.files},
            target_modules=tuple(message.target_modules),
            config=read_struct(message.config),
            package_versions=MappingProxyType(dict(message.package_versions)),
            metrics=read_struct(message.metrics),
            recipe=read_struct(message.recipe),
            seed=message.seed if message.HasField("seed") else None,
            signatures=tuple(map(Signature.of, message.signatures)),
        )


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One stored file, read again. `problem` is empty for a sound one."""

    path: str
    size_bytes: int
    problem: str

    @classmethod
    def of(cls, message: pb.FileCheck) -> "FileCheck":
        return cls(message.file.path, message.file.size_bytes, message.problem)


def list_adapters(parent: str) -> Listing[Adapter]:
    return Listing(
        Api.REGISTRY,
        "ListAdapters",
        lambda token: pb.ListAdaptersRequest(parent=parent, page_token=token),
        lambda page: [Adapter.of(item) for item in page.adapters],
    )


def get_adapter(name: str) -> Call[Adapter]:
    return Call(Api.REGISTRY, "GetAdapter", pb.GetAdapterRequest(name=name), Adapter.of)


def list_versions(adapter: str) -> Listing[Version]:
    return Listing(
        Api.REGISTRY,
        "ListVersions",
        lambda token: pb.ListVersionsRequest(parent=adapter, page_token=token),
        lambda page: [Version.of(item) for item in page.versions],
    )


def get_version(name: str) -> Call[Version]:
    return Call(Api.REGISTRY, "GetVersion", pb.GetVersionRequest(name=name), Version.of)


def verify_version(name: str) -> Call[tuple[FileCheck, ...]]:
    request = pb.VerifyVersionRequest(name=name)
    return Call(Api.REGISTRY, "VerifyVersion", request, lambda got: tuple(map(FileCheck.of, got.files)), FILE_TIMEOUT_S)


def set_alias(
    name: str, *, version: str = "", split: Mapping[str, int] | None = None, expected_number: int | None, reason: str
) -> Call[Alias]:
    shares = [pb.AliasShare(version=digest, weight=weight) for digest, weight in (split or {}).items()]
    request = pb.SetAliasRequest(
        name=name,
        version=version,
        split=shares,
        expected_number=expected_number,
        reason=reason,
        request_id=new_request_id(),
    )
    return Call(Api.REGISTRY, "SetAlias", request, Alias.of)


def roll_back_alias(name: str, expected_number: int | None, reason: str) -> Call[Alias]:
    request = pb.RollbackAliasRequest(
        name=name, expected_number=expected_number, reason=reason, request_id=new_request_id()
    )
    return Call(Api.REGISTRY, "RollbackAlias", request, Alias.of)


def set_alias_route(name: str, route: str, expected_number: int | None, reason: str) -> Call[Alias]:
    request = pb.SetAliasPolicyRequest(
        name=name, route=route, expected_number=expected_number, reason=reason, request_id=new_request_id()
    )
    return Call(Api.REGISTRY, "SetAliasPolicy", request, Alias.of)


def delete_alias(name: str, expected_number: int | None, reason: str) -> Call[Alias]:
    request = pb.DeleteAliasRequest(
        name=name, expected_number=expected_number, reason=reason, request_id=new_request_id()
    )
    return Call(Api.REGISTRY, "DeleteAlias", request, Alias.of)


def alias_history(name: str) -> Listing[Alias]:
    return Listing(
        Api.REGISTRY,
        "ListAliasHistory",
        lambda token: pb.ListAliasHistoryRequest(name=name, page_token=token),
        lambda page: [Alias.of(item) for item in page.records],
    )


def delete_version(name: str, reason: str) -> Call[Deletion]:
    request = pb.DeleteVersionRequest(name=name, reason=reason, request_id=new_request_id())
    return Call(Api.REGISTRY, "DeleteVersion", request, Deletion.of)


def delete_adapter(name: str, reason: str) -> Call[tuple[Deletion, ...]]:
    request = pb.DeleteAdapterRequest(name=name, reason=reason, request_id=new_request_id())
    return Call(Api.REGISTRY, "DeleteAdapter", request, lambda got: tuple(map(Deletion.of, got.versions)))
