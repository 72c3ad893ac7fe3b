"""All that is known of one version, as a table for people."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table

from graftwork.cli.session import table
from graftwork.v1 import registry_pb2

Row = list[object]


def provenance_table(version: registry_pb2.Version, aliases: Sequence[str]) -> Table:
    """One line a field: what it is, how it was made, who signed it.

    Args:
        version: as the registry shows it.
        aliases: names that send requests to it.
    """
    rows = [*_identity(version, aliases), *_made(version), *_files(version), *_signatures(version)]
    return table(("", "field", "value"), rows)


def signature_state(signature: registry_pb2.VersionSignature) -> str:
    """Whether a signature is valid, and what is wrong when it is not."""
    return f"INVALID: {signature.problem}" if signature.problem else "valid"


def _identity(version: registry_pb2.Version, aliases: Sequence[str]) -> Iterator[Row]:
    yield ["version", "name", version.name]
    yield ["version", "aliases", ", ".join(aliases) or "-"]
    yield ["version", "created", moment(version.create_time)]
    yield ["base", "model", version.base_model]
    yield ["base", "revision", version.base_revision or "-"]
    yield ["base", "weights", version.base_digest]
    yield ["base", "tokenizer", version.tokenizer_digest or "-"]
    yield ["adapter", "template", version.template_digest]
    yield ["adapter", "rank", str(version.rank)]
    yield ["adapter", "alpha", f"{version.alpha:g}"]
    yield ["adapter", "modules", ", ".join(version.target_modules)]
    yield ["adapter", "dtype", version.dtype]
    yield ["adapter", "parameters", f"{version.parameters:,}"]
    yield ["adapter", "bytes", f"{version.size_bytes:,}"]
    shown = {"r", "lora_alpha", "target_modules"}
    yield from _values("adapter", {key: value for key, value in _plain(version.config).items() if key not in shown})


def _made(version: registry_pb2.Version) -> Iterator[Row]:
    yield ["made", "by", version.made_by]
    yield ["made", "data set", version.dataset_sha256 or "-"]
    yield ["made", "seed", str(version.seed) if version.HasField("seed") else "-"]
    yield from _values("recipe", _plain(version.recipe))
    yield from _values("metrics", _plain(version.metrics))
    yield from _values("packages", dict(version.package_versions))


def _files(version: registry_pb2.Version) -> Iterator[Row]:
    for file in version.files:
        yield ["files", file.path, f"{file.sha256} ({file.size_bytes:,} bytes)"]
    yield ["manifest", "sha256", version.manifest_sha256]


def _signatures(version: registry_pb2.Version) -> Iterator[Row]:
    for signature in version.signatures:
        text = f"{signature_state(signature)}; by {signature.signed_by}, {moment(signature.create_time)}"
        yield ["signature", f"key {signature.key_id}", text]
    if not version.signatures:
        yield ["signature", "-", "not signed"]


def _values(section: str, values: Mapping[str, object]) -> Iterator[Row]:
    for key in sorted(values):
        value = values[key]
        yield [section, key, value if isinstance(value, str) else json.dumps(value)]


def _plain(values: Struct) -> dict[str, object]:
    return {key: _whole(value) for key, value in MessageToDict(values).items()}


def _whole(value: object) -> object:
    """A number as it was: protobuf's Struct knows floating-point ones only."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def moment(stamp: Timestamp) -> str:
    return stamp.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
