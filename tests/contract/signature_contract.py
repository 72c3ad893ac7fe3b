"""What a kept signature proves, and what it does not, on every backend; inherited, not run by itself."""

import hashlib
import json
from pathlib import Path

import pytest

from adapter_store import AdapterStore, BaseInfo, VersionManifest, documents, layout, open_store
from adapter_store.documents import canonical
from adapter_store.errors import CorruptRecord, InvalidSignature
from graftwork.signing import PublicKey, SigningKey
from tests.contract.backend_contract import Raw
from tests.contract.store_contract import MADE, StoreFixtures
from tests.store_samples import make_adapter


def digest_of(body: object) -> str:
    return hashlib.sha256(canonical(body)).hexdigest()


def sealed(body: object) -> bytes:
    """A document with a sound checksum, as anybody can write it who can write to the store."""
    return canonical({"body": body, "sha256": digest_of(body)})


class SignatureContract(StoreFixtures):
    """Subclasses give `raw` and `url`."""

    @pytest.fixture
    def key(self, tmp_path: Path) -> SigningKey:
        return SigningKey.create(tmp_path / "key")

    @pytest.fixture
    def other(self, tmp_path: Path) -> SigningKey:
        return SigningKey.create(tmp_path / "other-key")

    def trusted(self, *keys: SigningKey) -> dict[str, PublicKey]:
        return {key.public.id: key.public for key in keys}

    def at(self, version: VersionManifest, key: SigningKey) -> str:
        return layout.signature(version.tenant, version.adapter, version.version, key.public.id)

    def test_what_was_signed_is_known_everywhere(
        self, store: AdapterStore, version: VersionManifest, key: SigningKey, other: SigningKey, url: str
    ) -> None:
        made = store.signatures.sign(version, key, by="tests")
        again = open_store(url)
        read = again.versions.read("acme", "greeter", version.version)
        assert read == version
        assert again.signatures.signer(read, self.trusted(other, key)) == key.public.id
        assert again.signatures.signer(read, self.trusted(other)) is None
        (kept,) = again.signatures.list(read)
        assert (kept.record, kept.problem) == (made, "")
        assert again.signatures.sign(read, key, by="somebody else") == made, "a repeat changes nothing"
        again.signatures.sign(read, other, by="tests")
        assert len(store.signatures.list(version)) == 2

    def test_the_digest_is_that_of_the_stored_bytes(
        self, store: AdapterStore, version: VersionManifest, raw: Raw
    ) -> None:
        """A manifest from before a field was known, whose signatures must go on being valid."""
        place = layout.version("acme", "greeter", version.version)
        body = json.loads(raw.get(place) or b"")["body"]
        del body["tokenizer_digest"]
        old = sealed(body)
        raw.put(place, old)
        read = store.versions.read("acme", "greeter", version.version)
        assert read.document_sha256 == json.loads(old)["sha256"] != version.document_sha256
        assert read.tokenizer_digest == ""
        assert documents.digest(read) != read.document_sha256, "what the model would be written as now is another thing"

    def test_a_manifest_does_not_say_itself_what_was_signed(
        self, store: AdapterStore, version: VersionManifest, raw: Raw
    ) -> None:
        place = layout.version("acme", "greeter", version.version)
        body = json.loads(raw.get(place) or b"")["body"] | {"document_sha256": "f" * 64}
        raw.put(place, sealed(body))
        assert store.versions.read("acme", "greeter", version.version).document_sha256 == digest_of(body)

    def test_a_changed_manifest_loses_its_signature(
        self, store: AdapterStore, version: VersionManifest, key: SigningKey, raw: Raw
    ) -> None:
        """By somebody who can write to the store, checksum and all."""
        store.signatures.sign(version, key, by="tests")
        place = layout.version("acme", "greeter", version.version)
        body = json.loads(raw.get(place) or b"")["body"]
        body["made"]["metrics"]["eval_loss"] = 0.1
        raw.put(place, sealed(body))
        changed = store.versions.read("acme", "greeter", version.version)
        assert changed.made.metrics == {"eval_loss": 0.1}
        assert store.signatures.signer(changed, self.trusted(key)) is None
        assert [kept.problem for kept in store.signatures.list(changed)] == ["it is over another manifest"]

    def test_a_signature_says_nothing_of_another_version(
        self, store: AdapterStore, version: VersionManifest, key: SigningKey, base: BaseInfo, raw: Raw, tmp_path: Path
    ) -> None:
        store.signatures.sign(version, key, by="tests")
        second = store.versions.publish("acme", "greeter", make_adapter(tmp_path / "b", 1), base=base, made=MADE)
        stolen = raw.get(self.at(version, key)) or b""
        body = json.loads(stolen)["body"]
        for claims in ({}, {"version": second.version, "manifest_sha256": second.document_sha256}):
            forged = body | claims
            raw.put(self.at(second, key), sealed(forged))
            assert store.signatures.signer(second, self.trusted(key)) is None
            assert store.signatures.list(second)[0].problem
        store.signatures.sign(second, key, by="tests")
        assert store.signatures.signer(second, self.trusted(key)) == key.public.id, "a worthless one is replaced"

    def test_a_signature_by_another_key_under_a_trusted_name_is_none(
        self, store: AdapterStore, version: VersionManifest, key: SigningKey, other: SigningKey, raw: Raw
    ) -> None:
        """The record's own key is never asked."""
        store.signatures.sign(version, other, by="tests")
        raw.put(self.at(version, key), raw.get(self.at(version, other)) or b"")
        assert store.signatures.signer(version, self.trusted(key)) is None
        problems = {kept.problem for kept in store.signatures.list(version)}
        assert problems == {""}, "it is a good signature, of whom it says: that key is not trusted"
        body = json.loads(raw.get(self.at(version, other)) or b"")["body"] | {"key_id": key.public.id}
        raw.put(self.at(version, key), sealed(body))
        assert store.signatures.signer(version, self.trusted(key)) is None
        assert "it names another key than it carries" in {kept.problem for kept in store.signatures.list(version)}

    @pytest.mark.parametrize("damage", [b"", b"nonsense", b'{"body": {}, "sha256": ""}'])
    def test_a_damaged_signature_is_none_and_is_made_again(
        self, store: AdapterStore, version: VersionManifest, key: SigningKey, raw: Raw, damage: bytes
    ) -> None:
        store.signatures.sign(version, key, by="tests")
        raw.put(self.at(version, key), damage)
        assert store.signatures.signer(version, self.trusted(key)) is None
        assert store.signatures.list(version) == ()
        store.signatures.sign(version, key, by="tests")
        assert store.signatures.signer(version, self.trusted(key)) == key.public.id

    def test_what_does_not_fit_is_not_kept(
        self, store: AdapterStore, version: VersionManifest, key: SigningKey, other: SigningKey, raw: Raw
    ) -> None:
        before = raw.keys()
        signature = key.sign(version.document_sha256)
        for public, wrong in ((other.public, signature), (key.public, key.sign("0" * 64)), (PublicKey(b""), b"")):
            with pytest.raises(InvalidSignature):
                store.signatures.add(version, public, wrong, by="tests")
        assert raw.keys() == before

    def test_a_service_signs_nothing_that_somebody_slipped_in(
        self, store: AdapterStore, version: VersionManifest, key: SigningKey, base: BaseInfo, raw: Raw, tmp_path: Path
    ) -> None:
        """The manifest names another adapter_config.json, and the same content is published once more."""
        place = layout.version("acme", "greeter", version.version)
        body = json.loads(raw.get(place) or b"")["body"]
        for file in body["files"]:
            if file["path"] == "adapter_config.json":
                file["sha256"] = "e" * 64
        raw.put(place, sealed(body))
        again = store.versions.publish("acme", "greeter", tmp_path / "adapter", base=base, made=MADE)
        with pytest.raises(CorruptRecord, match="not signed"):
            store.signatures.sign(again, key, by="tests")
        assert store.signatures.list(again) == ()

    def test_signatures_of_a_page_of_versions(
        self, store: AdapterStore, version: VersionManifest, key: SigningKey, base: BaseInfo, tmp_path: Path
    ) -> None:
        second = store.versions.publish("acme", "greeter", make_adapter(tmp_path / "b", 1), base=base, made=MADE)
        store.signatures.sign(second, key, by="tests")
        assert [len(kept) for kept in store.signatures.of_all([version, second])] == [0, 1]
        assert store.signatures.of_all([]) == []
