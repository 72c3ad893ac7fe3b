"""The door itself, without the client's good manners: what a hand-made stream can send, and what a dead service leaves."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from adapter_store.registration import clear_staging
from graftwork.client.folders import CONFIG_FILE, WEIGHTS_FILE, DamagedDownload, Receiver
from graftwork.v1 import registry_pb2 as pb
from graftwork.v1 import registry_pb2_grpc
from tests.integration.registry.registry_process import OPERATOR, RegistryProcess
from tests.store_samples import make_adapter

pytestmark = pytest.mark.slow
METADATA = (("authorization", f"Bearer {OPERATOR}"),)
MIB = 1 << 20


def header(adapter: str = "door", alias: str = "", also: str = "") -> pb.RegisterAdapterRequest:
    made = pb.RegisterAdapterHeader(parent="tenants/acme", adapter_id=adapter, alias=alias)
    for path in (CONFIG_FILE, WEIGHTS_FILE, also):
        if path:
            made.files.add(path=path, size_bytes=MIB)
    return pb.RegisterAdapterRequest(header=made)


def file(path: str) -> pb.RegisterAdapterRequest:
    return pb.RegisterAdapterRequest(file=pb.RegisterAdapterFile(path=path))


def chunk(data: bytes) -> pb.RegisterAdapterRequest:
    return pb.RegisterAdapterRequest(chunk=data)


def endless() -> Iterator[pb.RegisterAdapterRequest]:
    yield header()
    yield file(CONFIG_FILE)
    while True:
        yield chunk(b" " * MIB)


STREAMS: dict[str, tuple[Callable[[], Iterator[pb.RegisterAdapterRequest]], str]] = {
    "nothing": (lambda: iter([]), "header"),
    "no header": (lambda: iter([file(CONFIG_FILE)]), "header"),
    "two headers": (lambda: iter([header(), header()]), "one header"),
    "an empty message": (lambda: iter([header(), pb.RegisterAdapterRequest()]), "one header"),
    "bytes before a name": (lambda: iter([header(), chunk(b"x")]), "before the name"),
    "no files": (
        lambda: iter(
            [pb.RegisterAdapterRequest(header=pb.RegisterAdapterHeader(parent="tenants/acme", adapter_id="a"))]
        ),
        "lacks",
    ),
    "files that never come": (lambda: iter([header()]), "ended before all"),
    "pickled weights": (lambda: iter([header(also="adapter_model.bin")]), "pickled"),
    "pickled weights in capitals": (lambda: iter([header(also="Adapter.PT")]), "pickled"),
    "pickled weights that were not announced": (lambda: iter([header(), file("adapter_model.bin")]), "does not name"),
    "another file": (lambda: iter([header(also="README.md")]), "only adapter_model.safetensors"),
    "a path": (lambda: iter([header(also=f"../{CONFIG_FILE}")]), "only adapter_model.safetensors"),
    "an absolute path": (lambda: iter([header(also="/etc/cron.d/x")]), "only adapter_model.safetensors"),
    "a path with NUL": (lambda: iter([header(also=f"{CONFIG_FILE}\0")]), "only adapter_model.safetensors"),
    "a file named twice": (lambda: iter([header(also=CONFIG_FILE)]), "twice"),
    "a file twice": (lambda: iter([header(), file(CONFIG_FILE), file(CONFIG_FILE)]), "twice"),
    "a chunk that is too large": (lambda: iter([header(), file(WEIGHTS_FILE), chunk(b"x" * (MIB + 1))]), "at most"),
    "a file without end": (endless, "more than"),
    "a name with NUL": (lambda: iter([header("do\0or")]), "adapter id"),
    "an alias with a slash": (lambda: iter([header(alias="a/b")]), "alias id"),
}


@pytest.mark.parametrize(("stream", "reason"), STREAMS.values(), ids=STREAMS)
def test_a_stream_that_is_no_adapter_is_invalid_and_leaves_nothing(
    registry: RegistryProcess, stream: Callable[[], Iterator[pb.RegisterAdapterRequest]], reason: str
) -> None:
    with registry.client() as client:
        stub = registry_pb2_grpc.RegistryServiceStub(client.trainer.channel)
        with pytest.raises(grpc.RpcError, match=reason) as refused:
            stub.RegisterAdapter(stream(), metadata=METADATA, timeout=60)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert list(client.list_adapters("acme")) == []
    assert list(registry.staging.glob("*")) == []


@pytest.mark.parametrize("missing", [1, 2])
def test_a_sender_that_dies_before_its_last_file_registers_nothing(
    registry: RegistryProcess, tmp_path: Path, missing: int
) -> None:
    """What arrived until then would pass every check: an adapter without a template of its own."""
    folder = make_adapter(tmp_path / "adapter")
    names = [CONFIG_FILE, WEIGHTS_FILE, "chat_template.jinja"]
    first = pb.RegisterAdapterHeader(parent="tenants/acme", adapter_id="cut")
    for name in names:
        first.files.add(path=name, size_bytes=(folder / name).stat().st_size)

    def stream() -> Iterator[pb.RegisterAdapterRequest]:
        yield pb.RegisterAdapterRequest(header=first)
        for name in names[:-1]:
            yield file(name)
            yield chunk((folder / name).read_bytes())
        if missing == 1:  # cut inside the last file instead of before it
            yield file(names[-1])
            yield chunk((folder / names[-1]).read_bytes()[:-1])

    with registry.client() as client:
        stub = registry_pb2_grpc.RegistryServiceStub(client.trainer.channel)
        with pytest.raises(grpc.RpcError, match="ended before all") as refused:
            stub.RegisterAdapter(stream(), metadata=METADATA, timeout=60)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert list(client.list_adapters("acme")) == []


def test_a_tenant_that_does_not_exist_is_refused_before_a_byte_is_taken(registry: RegistryProcess) -> None:
    sent = 0

    def stream() -> Iterator[pb.RegisterAdapterRequest]:
        nonlocal sent
        first = header("a")
        first.header.parent = "tenants/nobody"
        yield first
        yield file(CONFIG_FILE)
        while sent < 2000:
            sent += 1
            yield chunk(b" " * MIB)

    with registry.client() as client:
        stub = registry_pb2_grpc.RegistryServiceStub(client.trainer.channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.RegisterAdapter(stream(), metadata=METADATA, timeout=60)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert sent < 2000, "the call ended while the client was still sending"


def test_what_a_killed_registry_was_taking_in_is_gone_after_its_next_start(tmp_path: Path) -> None:
    registry = RegistryProcess(tmp_path)
    with registry.client() as client:
        client.create_tenant("acme")
        stub = registry_pb2_grpc.RegistryServiceStub(client.trainer.channel)

        def stream() -> Iterator[pb.RegisterAdapterRequest]:
            yield header()
            yield file(CONFIG_FILE)
            yield chunk(b"{")
            while not list(registry.staging.glob("*/" + CONFIG_FILE)):
                yield chunk(b" ")
            registry.process.kill()

        with pytest.raises(grpc.RpcError):
            stub.RegisterAdapter(stream(), metadata=METADATA, timeout=60)
    registry.process.wait(30)
    assert list(registry.staging.glob("*")), "the kill came in the middle"
    again = RegistryProcess(tmp_path, registry.backbone)
    try:
        assert list(again.staging.glob("*")) == []
        with again.client() as client:
            assert list(client.list_adapters("acme")) == []
            client.register_adapter("acme", "door", make_adapter(tmp_path / "adapter"))
    finally:
        again.stop()


def test_two_registries_do_not_share_a_state_folder(registry: RegistryProcess) -> None:
    """The second would remove what the first is taking in."""
    with pytest.raises(AssertionError, match="another registry uses"):
        RegistryProcess(registry.root, registry.backbone)


def test_clearing_leaves_foreign_files_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "transfer-x").mkdir()
    clear_staging(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


DIGEST = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of b"x"


@pytest.mark.parametrize(
    "pieces",
    [
        [("f", b"y")],
        [("f", b"xx")],
        [("f", b"")],
        [],
        [("../f", b"x")],
        [("g", b"x")],
        [("f", b"x"), ("f", b"x")],
    ],
)
def test_a_download_that_is_not_as_announced_is_refused(tmp_path: Path, pieces: list[tuple[str, bytes]]) -> None:
    receiver = Receiver(tmp_path, [("f", DIGEST, 1)])

    def receive() -> None:
        for name, data in pieces:
            receiver.begin(name)
            receiver.write(data)
        receiver.finish()

    with pytest.raises(DamagedDownload):
        receive()
    assert not (tmp_path.parent / "f").exists()


def test_a_download_as_announced_is_kept(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path, [("f", DIGEST, 1)])
    receiver.begin("f")
    receiver.write(b"x")
    receiver.finish()
    assert (tmp_path / "f").read_bytes() == b"x"
