"""Ed25519 keys and the signatures that are made with them over a version's manifest.

Owns key files (PEM), key ids, what exactly is signed, and the set of keys that somebody trusts. Does not own where signatures
are kept (`adapter_store.signatures`) nor what needs one (serving).

Signed are the bytes `graftwork manifest v1\\n` and the manifest's sha256 in hex: a signature made for anything else can never
pass as one of ours.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from graftwork.errors import ErrorCode, GraftError

CONTEXT = b"graftwork manifest v1\n"
PUBLIC_SUFFIX = ".pub"
RECHECK_S = 1.0
"""How long trusted keys are used without a look at their files: what taking one away needs to be noticed."""
_MAX_FILE = 1 << 20
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class InvalidKeyFile(GraftError):
    """A key file that is not there, exists already, or does not hold what it should; the message says which."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What a signature is verified with."""

    raw: bytes
    """32 bytes."""

    @property
    def id(self) -> str:
        """First 16 hex digits of the sha256 of `raw`."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def fits(self, manifest_sha256: str, signature: bytes) -> bool:
        """Whether this key's owner signed the manifest; False too when these 32 bytes are no key at all."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, _message(manifest_sha256))
        except (InvalidSignature, ValueError):
            return False
        return True

    def pem(self) -> bytes:
        """Returns the key as SubjectPublicKeyInfo in PEM."""
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class SigningKey:
    """A private key. Nothing of it is in repr or in messages."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.public = PublicKey(raw)

    @classmethod
    def create(cls, file: Path) -> Self:
        """Makes a key pair: the private key in `file`, for its owner only, and the public one beside it (`.pub`).

        Raises:
            InvalidKeyFile: one of them is there; a key is never overwritten.
            OSError: they cannot be written.
        """
        made, public = cls(Ed25519PrivateKey.generate()), public_file(file)
        if public.exists() or public.is_symlink():
            raise InvalidKeyFile(f"{public} exists already; name another file, a key is never overwritten")
        private = made._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write_new(file, private, 0o600)
        try:
            _write_new(public, made.public.pem(), 0o644)
        except BaseException:
            file.unlink()  # half a pair would be in the way of the next try
            raise
        return made

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads a private key.

        Raises:
            InvalidKeyFile: missing, encrypted, or no Ed25519 key.
        """
        try:
            key = serialization.load_pem_private_key(_read(file), password=None)
        except (ValueError, TypeError):  # TypeError: it has a password
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidKeyFile(
                f"{file} holds no Ed25519 private key in PEM without a password; make one with `graft key create`"
            )
        return cls(key)

    def sign(self, manifest_sha256: str) -> bytes:
        """Returns the signature, 64 bytes; the same one every time."""
        return self._key.sign(_message(manifest_sha256))


def public_file(file: Path) -> Path:
    """Where the public half of a private key's file lies."""
    return file.with_name(file.name + PUBLIC_SUFFIX)


def read_public_keys(path: Path) -> dict[str, PublicKey]:
    """Reads a PEM file with one public key or more, or a folder of such files; hidden files are left out.

    Returns:
        The keys by their ids.

    Raises:
        InvalidKeyFile: no key there, something else than public Ed25519 keys, or a private one.
    """
    found: dict[str, PublicKey] = {}
    for file in _files(path):
        blocks = list(_PEM.finditer(_read(file)))
        if not blocks:
            raise InvalidKeyFile(f"{file} holds no public key in PEM")
        for block in blocks:
            key = _public(file, block)
            if found.setdefault(key.id, key) != key:
                raise InvalidKeyFile(f"two public keys of {path} have the id {key.id}; take one away")
    if not found:
        raise InvalidKeyFile(f"{path} holds no public key")
    return found


class TrustedKeys:
    """The keys that somebody trusts, read again whenever their file or folder changes.

    Args:
        path: as `read_public_keys` takes it.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self._clock = path, clock
        self._looked = -RECHECK_S
        self._seen: object = None
        self._keys: Mapping[str, PublicKey] | InvalidKeyFile = {}

    def current(self) -> Mapping[str, PublicKey]:
        """Returns the keys by id, at most RECHECK_S old.

        Raises:
            InvalidKeyFile: they cannot be read; then nobody is trusted, rather than those of before.
        """
        now = self._clock()
        if now - self._looked >= RECHECK_S:
            self._looked = now
            try:
                seen = [
                    (file, file.stat().st_mtime_ns, file.stat().st_ino, file.stat().st_size)
                    for file in _files(self.path)
                ]
            except (OSError, InvalidKeyFile):
                seen = []  # the reading below says what is wrong
            if not seen or seen != self._seen:
                self._seen = seen
                try:
                    self._keys = read_public_keys(self.path)
                except InvalidKeyFile as error:
                    self._keys = error
        if isinstance(self._keys, InvalidKeyFile):
            raise self._keys
        return self._keys


def _message(manifest_sha256: str) -> bytes:
    return CONTEXT + manifest_sha256.encode()


def _public(file: Path, block: "re.Match[bytes]") -> PublicKey:
    if b"PRIVATE" in block[1]:
        raise InvalidKeyFile(f"{file} holds a private key; trust its public half, the file that ends with .pub")
    try:
        key = serialization.load_pem_public_key(block[0])
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidKeyFile(f"{file} holds something else than public Ed25519 keys in PEM")
    return PublicKey(key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw))


def _files(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        # Hidden ones: what Kubernetes and editors keep beside the files that are meant.
        return sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_file())
    except OSError as error:
        raise InvalidKeyFile(f"cannot look into {path}: {error.strerror}") from None


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as source:
            return source.read(_MAX_FILE)
    except OSError as error:
        raise InvalidKeyFile(f"cannot read the key file {file}: {error.strerror}") from None


def _write_new(file: Path, data: bytes, mode: int) -> None:
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise InvalidKeyFile(f"{file} exists already; name another file, a key is never overwritten") from None
    with os.fdopen(handle, "wb") as target:
        target.write(data)
