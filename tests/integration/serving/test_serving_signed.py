"""A service that serves signed versions only, and bytes that are what their manifest names: the real process."""

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from adapter_store import VersionManifest
from adapter_store.documents import canonical
from graftwork.signing import SigningKey
from graftwork.v1 import registry_pb2, registry_pb2_grpc
from tests.integration.serving.serving_world import Service, World, make_adapter, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SigningKey]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: SigningKey.create(folder / name) for name in ("trusted", "second", "unknown")}


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, SigningKey]) -> Path:
    folder = tmp_path_factory.mktemp("trusted")
    for name in ("trusted", "second"):
        (folder / f"{name}.pub").write_bytes(keys[name].public.pem())
    return folder


@pytest.fixture(scope="module")
def strict(run_service: Callable[..., Service], trusted: Path) -> Service:
    return run_service(trusted_keys=trusted).ready()


@pytest.fixture
def version(world: World, request: pytest.FixtureRequest) -> VersionManifest:
    """An adapter of acme of its own, unsigned."""
    name = f"s{zlib.crc32(request.node.name.encode())}"
    folder = make_adapter(world.backbone, world.root / "adapters" / name, rank=8, seed=zlib.crc32(name.encode()))
    return world.publish("acme", name, folder)


def sign(world: World, version: VersionManifest, key: SigningKey) -> None:
    world.store.signatures.sign(version, key, by="tests")


def refusal(service: Service, version: VersionManifest) -> grpc.RpcError:
    """What a request gets; nothing of the version may have come here."""
    with pytest.raises(grpc.RpcError) as refused:
        service.generate("acme", version.adapter, "text", max_tokens=4)
    assert not list(service.cache.glob(f"adapters/*/{version.adapter}@*"))
    assert not [name for name in service.residents() if version.adapter in name]
    return refused.value


def assert_untrusted(service: Service, version: VersionManifest) -> None:
    error = refusal(service, version)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error.details()
    assert version.version in error.details()
    assert "graft adapter sign" in error.details()


def place(world: World, *parts: str) -> Path:
    return world.root.joinpath("store/v1/tenants/acme", *parts)


def rewrite(file: Path, change: Callable[[dict[str, object]], object]) -> None:
    """As somebody who can write to the store, and knows about the checksum."""
    body = json.loads(file.read_bytes())["body"]
    change(body)
    file.chmod(0o600)
    file.write_bytes(canonical({"body": body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}))


def test_an_unsigned_version_is_refused_and_served_once_it_is_signed(
    strict: Service, world: World, version: VersionManifest, keys: dict[str, SigningKey]
) -> None:
    assert_untrusted(strict, version)
    # Through the registry on the same server, with the tenant's own key: only the signature travels.
    stub = registry_pb2_grpc.RegistryServiceStub(strict.channel)
    name = f"tenants/acme/adapters/{version.adapter}/versions/{version.version}"
    shown = stub.GetVersion(registry_pb2.GetVersionRequest(name=name), metadata=strict.as_tenant("acme"), timeout=30)
    signing = registry_pb2.SignVersionRequest(
        name=name, public_key=keys["trusted"].public.raw, signature=keys["trusted"].sign(shown.manifest_sha256)
    )
    stub.SignVersion(signing, metadata=strict.as_tenant("acme"), timeout=30)

    def served() -> bool:
        try:
            return bool(strict.generate("acme", version.adapter, "text", max_tokens=4).started.version)
        except grpc.RpcError:
            return False

    wait_until("the signature is seen", served, 5)


def test_a_tampered_manifest_is_refused(
    strict: Service, world: World, version: VersionManifest, keys: dict[str, SigningKey]
) -> None:
    sign(world, version, keys["trusted"])
    manifest = place(world, "adapters", version.adapter, "versions", f"{version.version}.json")
    rewrite(manifest, lambda body: body["made"].update(made_by="tenants/acme/jobs/another"))  # type: ignore[attr-defined]
    assert_untrusted(strict, version)


def test_a_signature_of_another_version_copied_over_is_refused(
    strict: Service, world: World, version: VersionManifest, keys: dict[str, SigningKey]
) -> None:
    signed = world.versions["acme"]
    sign(world, signed, keys["trusted"])
    name = f"{keys['trusted'].public.id}.json"
    source = place(world, "adapters", signed.adapter, "signatures", signed.version, name)
    target = place(world, "adapters", version.adapter, "signatures", version.version, name)
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes())
    names = {"adapter": version.adapter, "version": version.version, "manifest_sha256": version.document_sha256}
    rewrite(target, lambda body: body.update(names))  # says that it is ours, to no avail
    assert_untrusted(strict, version)


def test_a_signature_by_an_unknown_key_is_refused(
    strict: Service, world: World, version: VersionManifest, keys: dict[str, SigningKey]
) -> None:
    sign(world, version, keys["unknown"])
    assert_untrusted(strict, version)


def test_a_key_that_is_taken_away_stops_what_is_resident_without_a_restart(
    strict: Service, world: World, version: VersionManifest, keys: dict[str, SigningKey], trusted: Path
) -> None:
    sign(world, version, keys["second"])
    assert strict.generate("acme", version.adapter, "text", max_tokens=4).started.version == version.version
    file = trusted / "second.pub"
    file.unlink()
    try:

        def refused() -> bool:
            try:
                strict.generate("acme", version.adapter, "text", max_tokens=4)
            except grpc.RpcError as error:
                return error.code() is grpc.StatusCode.FAILED_PRECONDITION
            return False

        wait_until("the key is revoked", refused, 5)
    finally:
        file.write_bytes(keys["second"].public.pem())


def test_the_base_needs_no_signature(strict: Service) -> None:
    assert strict.generate("acme", "", "text", max_tokens=4).started.version == ""


def test_bytes_altered_in_the_store_are_never_served(
    strict: Service, world: World, version: VersionManifest, keys: dict[str, SigningKey]
) -> None:
    """Signed and all: the manifest is sound, the weights are not what it names."""
    sign(world, version, keys["trusted"])
    blob = place(world, "blobs", "sha256", version.file("adapter_model.safetensors").sha256)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(data)
    error = refusal(strict, version)
    assert error.code() is grpc.StatusCode.DATA_LOSS, error.details()
    assert "damaged" in error.details()


def test_a_service_with_no_key_to_trust_does_not_start(run_service: Callable[..., Service], tmp_path: Path) -> None:
    service = run_service(trusted_keys=tmp_path / "nowhere")
    assert service.process.wait(120) == 1
    assert "cannot read the key file" in service.log()
