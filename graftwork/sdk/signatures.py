"""Signatures over versions: the result, and the call that hands one in. The private key stays here (`graftwork.signing`)."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from graftwork.sdk.calls import Api, Call
from graftwork.sdk.reading import read_fields, read_time
from graftwork.v1 import registry_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """An Ed25519 signature over a version's manifest.

    Attributes:
        key_id: first 16 hex digits of the sha256 of `public_key` (32 bytes).
        manifest_sha256: that was signed, hex. signature: 64 bytes.
        signed_by: who handed it in. signed_at: UTC.
        problem: empty when it fits the manifest and its own public key; whether to trust that key is yours to decide.
    """

    key_id: str
    public_key: bytes
    manifest_sha256: str
    signature: bytes
    signed_by: str
    signed_at: datetime | None
    problem: str

    @classmethod
    def of(cls, message: pb.VersionSignature) -> "Signature":
        same = read_fields(message, "key_id public_key manifest_sha256 signature signed_by problem")
        return cls(**same, signed_at=read_time(message, "create_time"))


def sign_version(name: str, manifest_sha256: str, key_file: Path) -> Call[Signature]:
    """Makes the signature here; only it and the public key are sent.

    Raises:
        InvalidKeyFile: no Ed25519 private key in that file.
    """
    from graftwork.signing import SigningKey  # what it needs costs every other program's start

    key = SigningKey.load(key_file)
    request = pb.SignVersionRequest(name=name, public_key=key.public.raw, signature=key.sign(manifest_sha256))
    return Call(Api.REGISTRY, "SignVersion", request, Signature.of)
