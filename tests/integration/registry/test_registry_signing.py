"""Keys and signatures through the real command: made here, checked there, shown to everybody."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graftwork.signing import SigningKey
from tests.contract.signature_contract import sealed
from tests.integration.registry.registry_process import RegistryProcess
from tests.store_samples import make_adapter

pytestmark = pytest.mark.slow


def ok(registry: RegistryProcess, *arguments: str) -> Any:
    done = registry.graft(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """A registry that signs what it registers."""
    root = tmp_path_factory.mktemp("signing")
    key = SigningKey.create(root / "service-key").public
    running = RegistryProcess(root, GRAFT_REGISTRY_SIGNING_KEY_FILE=str(root / "service-key"))
    ok(running, "tenant", "create", "acme")
    (root / "service-key-id").write_text(key.id)
    yield running
    assert running.stop() == 0


def test_make_a_key_sign_show_and_verify(registry: RegistryProcess, tmp_path: Path) -> None:
    key = tmp_path / "release"
    made = ok(registry, "key", "create", str(key))
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    again = registry.graft("key", "create", str(key))
    assert (again.returncode, len(again.stderr.splitlines())) == (1, 1)
    assert ok(registry, "key", "show", made["public_key"]) == [{"id": made["id"]}]

    ok(registry, "adapter", "register", "signed", str(make_adapter(tmp_path / "a", 1)), "-t", "acme", "--alias", "prod")
    trusted = ("--trusted", made["public_key"])
    unsigned = registry.graft("adapter", "verify", "signed", "-t", "acme", *trusted)
    assert (unsigned.returncode, len(unsigned.stderr.splitlines())) == (1, 1)
    assert "graft adapter sign" in unsigned.stderr
    assert "not signed" in registry.graft("adapter", "show", "signed:prod", "-t", "acme").stdout

    signature = ok(registry, "adapter", "sign", "signed", "-t", "acme", "--key", str(key))
    assert (signature["key_id"], signature["problem"]) == (made["id"], "")
    assert ok(registry, "adapter", "sign", "signed:prod", "-t", "acme", "--key", str(key)) == signature
    assert registry.graft("adapter", "verify", "signed", "-t", "acme", *trusted).returncode == 0
    shown = registry.graft("adapter", "show", "signed:prod", "-t", "acme").stdout
    assert f"key {made['id']}" in shown
    assert "valid; by operator" in shown
    assert made["id"] in registry.graft("adapter", "show", "signed", "-t", "acme").stdout
    SigningKey.create(tmp_path / "other")
    stranger = registry.graft("adapter", "verify", "signed", "-t", "acme", "--trusted", str(tmp_path / "other.pub"))
    assert stranger.returncode == 1, "a valid signature by somebody else is no reason to trust"


def test_a_signature_that_does_not_fit_any_more_is_shown_and_fails_verify(
    registry: RegistryProcess, tmp_path: Path
) -> None:
    SigningKey.create(tmp_path / "key")
    made = ok(registry, "adapter", "register", "broken", str(make_adapter(tmp_path / "a", 2)), "-t", "acme")
    digest = made["version"]["name"].split("/")[-1]
    ok(registry, "adapter", "sign", f"broken@{digest[:10]}", "-t", "acme", "--key", str(tmp_path / "key"))
    (file,) = (registry.root / f"store/v1/tenants/acme/adapters/broken/signatures/{digest}").iterdir()
    document = json.loads(file.read_bytes())
    document["body"]["signature"] = "0" * 128
    file.chmod(0o600)
    file.write_bytes(sealed(document["body"]))
    verified = registry.graft("adapter", "verify", "broken", "-t", "acme")
    assert (verified.returncode, len(verified.stderr.splitlines())) == (1, 1)
    assert "1 of 1 signatures" in verified.stderr
    shown = registry.graft("adapter", "show", f"broken@{digest[:10]}", "-t", "acme").stdout
    assert "INVALID: it does not fit the manifest" in shown


def test_keys_that_cannot_sign_end_in_one_line(registry: RegistryProcess, tmp_path: Path) -> None:
    SigningKey.create(tmp_path / "key")
    for file in (tmp_path / "key.pub", tmp_path / "nowhere"):
        done = registry.graft("adapter", "sign", "signed", "-t", "acme", "--key", str(file))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr


def test_a_registry_with_a_key_signs_what_it_registers(signing: RegistryProcess, tmp_path: Path) -> None:
    made = ok(
        signing, "adapter", "register", "a", str(make_adapter(tmp_path / "a", 3)), "-t", "acme", "--alias", "prod"
    )
    (signature,) = made["version"]["signatures"]
    assert signature["key_id"] == (signing.root / "service-key-id").read_text()
    assert signature["signed_by"].startswith("this registry, for operator ")
    trusted = ("--trusted", str(signing.root / "service-key.pub"))
    assert signing.graft("adapter", "verify", "a", "-t", "acme", *trusted).returncode == 0
    assert len(ok(signing, "adapter", "register", "a", str(tmp_path / "a"), "-t", "acme")["version"]["signatures"]) == 1


def test_a_registry_whose_key_is_none_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="cannot read the key file"):
        RegistryProcess(tmp_path, GRAFT_REGISTRY_SIGNING_KEY_FILE=str(tmp_path / "nowhere"))


def test_show_has_all_of_a_versions_provenance(registry: RegistryProcess, tmp_path: Path) -> None:
    made = ok(
        registry, "adapter", "register", "shown", str(make_adapter(tmp_path / "a", 4)), "-t", "acme", "--alias", "prod"
    )
    shown = registry.graft("adapter", "show", "shown:prod", "-t", "acme").stdout
    version = made["version"]
    whole = [version[name] for name in ("name", "base_digest", "template_digest", "manifest_sha256", "made_by")]
    whole += [file["sha256"] for file in version["files"]]
    for text in whole:
        assert text in shown
    plain = ok(registry, "adapter", "show", "shown:prod", "-t", "acme")
    assert [item["name"] for item in plain["versions"]] == [version["name"]]
    assert plain["versions"][0]["config"]["lora_alpha"] == 8
    missing = registry.graft("adapter", "show", "shown@00000000", "-t", "acme")
    assert (missing.returncode, len(missing.stderr.splitlines())) == (1, 1)
