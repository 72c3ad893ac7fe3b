"""Two versions side by side: the result, and the call that gives it."""

from dataclasses import dataclass

from graftwork.sdk.adapters import Version
from graftwork.sdk.calls import FILE_TIMEOUT_S, Api, Call
from graftwork.sdk.reading import read_fields
from graftwork.v1 import registry_pb2 as pb


@dataclass(frozen=True, slots=True)
class ValueDiff:
    """A setting that differs.

    Attributes:
        section: config, base, recipe, data or metrics. field: its name there.
        one, other: as JSON; empty where the version has no such field.
    """

    section: str
    field: str
    one: str
    other: str


@dataclass(frozen=True, slots=True)
class ModuleDiff:
    """How far a module's updates are apart: Frobenius norms of scale * B @ A; 0.0 for a module that a version lacks."""

    module: str
    norm_one: float
    norm_other: float
    norm_difference: float


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What differs between two versions.

    Attributes:
        one, other: the versions.
        values: differing settings only. modules: of either version.
    """

    one: Version
    other: Version
    values: tuple[ValueDiff, ...]
    modules: tuple[ModuleDiff, ...]

    @classmethod
    def of(cls, message: pb.DiffVersionsResponse) -> "VersionDiff":
        return cls(
            Version.of(message.one),
            Version.of(message.other),
            tuple(ValueDiff(**read_fields(item, "section field one other")) for item in message.values),
            tuple(
                ModuleDiff(**read_fields(item, "module norm_one norm_other norm_difference"))
                for item in message.modules
            ),
        )


def diff_versions(name: str, other: str) -> Call[VersionDiff]:
    request = pb.DiffVersionsRequest(name=name, other=other)
    return Call(Api.REGISTRY, "DiffVersions", request, VersionDiff.of, FILE_TIMEOUT_S)
