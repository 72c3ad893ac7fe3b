"""Keys on disk, what is signed with them, and who is trusted now."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from graftwork.signing import (
    CONTEXT,
    RECHECK_S,
    InvalidKeyFile,
    PublicKey,
    SigningKey,
    TrustedKeys,
    public_file,
    read_public_keys,
)

DIGEST = "a" * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "key.pem"


def test_a_pair_is_its_owners_and_never_overwritten(file: Path) -> None:
    made = SigningKey.create(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert SigningKey.load(file).public == made.public
    assert read_public_keys(public_file(file)) == {made.public.id: made.public}
    before = file.read_bytes(), public_file(file).read_bytes()
    for left in (file, public_file(file)):  # one half is enough to refuse
        with pytest.raises(InvalidKeyFile, match="exists already"):
            SigningKey.create(file)
        assert (file.read_bytes(), public_file(file).read_bytes()) == before
        away = left.rename(left.with_suffix(".away"))
        with pytest.raises(InvalidKeyFile, match="exists already"):
            SigningKey.create(file)
        away.rename(left)


def test_half_a_pair_is_not_left_behind(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def full(path: object, *arguments: object) -> int:
        if str(path).endswith(".pub"):
            raise OSError(28, "No space left on device")
        return real(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="space"):
        SigningKey.create(file)
    assert not file.exists()


def test_a_signature_fits_its_manifest_and_its_key_alone(file: Path, tmp_path: Path) -> None:
    key, other = SigningKey.create(file), SigningKey.create(tmp_path / "other")
    signature = key.sign(DIGEST)
    assert key.public.fits(DIGEST, signature)
    assert not key.public.fits("b" * 64, signature)
    assert not other.public.fits(DIGEST, signature)
    for wrong in (b"", signature[:-1], signature + b"x", bytes(64)):
        assert not key.public.fits(DIGEST, wrong)
    for raw in (b"", b"x" * 31, bytes(32), b"\xff" * 32):
        assert not PublicKey(raw).fits(DIGEST, signature)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")
def test_openssl_verifies_what_we_sign(file: Path, tmp_path: Path) -> None:
    """The documented bytes are what is signed: nobody needs our code to verify."""
    key = SigningKey.create(file)
    (tmp_path / "message").write_bytes(CONTEXT + DIGEST.encode())
    (tmp_path / "signature").write_bytes(key.sign(DIGEST))
    command = "openssl pkeyutl -verify -pubin -inkey key.pem.pub -rawin -in message -sigfile signature"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)


def test_a_private_key_is_in_no_text(file: Path) -> None:
    key = SigningKey.create(file)
    assert "PRIVATE" not in repr(key) + str(vars(key))


def rsa_pem(private: bool) -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    if private:
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def encrypted(file: Path) -> bytes:
    return SigningKey.create(file)._key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def test_what_is_no_private_key_is_refused(file: Path, tmp_path: Path) -> None:
    contents = [b"", b"nonsense", rsa_pem(private=True), encrypted(tmp_path / "e"), (tmp_path / "e.pub").read_bytes()]
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(InvalidKeyFile, match="holds no Ed25519 private key"):
            SigningKey.load(file)
    with pytest.raises(InvalidKeyFile, match="No such file"):
        SigningKey.load(tmp_path / "nowhere")


def test_trusted_keys_are_public_ones_only(file: Path, tmp_path: Path) -> None:
    key = SigningKey.create(file)
    with pytest.raises(InvalidKeyFile, match="private key; trust its public half"):
        read_public_keys(file)
    both = tmp_path / "both"
    for content in (b"", b"x", rsa_pem(private=False), key.public.pem() + rsa_pem(private=False)):
        both.write_bytes(content)
        with pytest.raises(InvalidKeyFile):
            read_public_keys(both)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InvalidKeyFile, match="holds no public key"):
        read_public_keys(empty)


def test_one_file_or_a_folder_may_hold_several(tmp_path: Path) -> None:
    keys = [SigningKey.create(tmp_path / f"k{number}").public for number in range(3)]
    together = tmp_path / "together"
    together.write_bytes(b"# the release team\n" + b"".join(key.pem() for key in keys))
    assert set(read_public_keys(together)) == {key.id for key in keys}
    folder = tmp_path / "folder"
    (folder / ".hidden").mkdir(parents=True)
    (folder / ".swp").write_text("what an editor leaves")
    for number, key in enumerate(keys):
        (folder / f"{number}.pub").write_bytes(key.pem())
    assert set(read_public_keys(folder)) == {key.id for key in keys}


def test_keys_are_read_again_when_they_change(tmp_path: Path) -> None:
    one, two = (SigningKey.create(tmp_path / name).public for name in ("one", "two"))
    folder, now = tmp_path / "trusted", [0.0]
    folder.mkdir()
    (folder / "one.pub").write_bytes(one.pem())
    trusted = TrustedKeys(folder, clock=lambda: now[0])
    assert set(trusted.current()) == {one.id}
    (folder / "two.pub").write_bytes(two.pem())
    assert set(trusted.current()) == {one.id}, "the files are looked at once a second, not for each request"
    now[0] += RECHECK_S
    assert set(trusted.current()) == {one.id, two.id}
    (folder / "one.pub").unlink()
    now[0] += RECHECK_S
    assert set(trusted.current()) == {two.id}


@pytest.mark.parametrize("broken", [b"", b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n", None])
def test_keys_that_cannot_be_read_trust_nobody_until_they_can(tmp_path: Path, broken: bytes | None) -> None:
    key, now, file = SigningKey.create(tmp_path / "key").public, [0.0], tmp_path / "trusted"
    file.write_bytes(key.pem())
    trusted = TrustedKeys(file, clock=lambda: now[0])
    assert trusted.current()
    file.unlink()
    if broken is not None:
        file.write_bytes(broken)
    for _ in range(2):
        now[0] += RECHECK_S
        with pytest.raises(InvalidKeyFile):
            trusted.current()
    file.write_bytes(key.pem())
    now[0] += RECHECK_S
    assert set(trusted.current()) == {key.id}
