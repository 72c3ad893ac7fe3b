"""A message that cannot be read is the caller's mistake like any other: its own status, an id to ask about, and nothing done."""

from collections.abc import Callable, Iterator

import grpc
import pytest

from adapter_store import AdapterStore
from graftwork.rpc.status import ERROR_CODE_KEY, REQUEST_ID_KEY
from tests.unit.graftwork.registry_world import OPERATOR, Registry

SERVICE = "/graftwork.v1.RegistryService"
NO_UTF8 = b"\x0a\x07SECRET\xff"
"""A first field, of seven bytes: a text in each of the messages below, or one more message."""
CUT_OFF = NO_UTF8[:-3]


@pytest.fixture
def channel(registry: Registry) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{registry.port}") as made:
        yield made


def unary(channel: grpc.Channel, data: bytes, key: str) -> None:
    channel.unary_unary(f"{SERVICE}/CreateTenant")(data, metadata=_bearer(key), timeout=30)


def answered_by_a_stream(channel: grpc.Channel, data: bytes, key: str) -> None:
    list(channel.unary_stream(f"{SERVICE}/DownloadVersion")(data, metadata=_bearer(key), timeout=30))


def sent_as_a_stream(channel: grpc.Channel, data: bytes, key: str) -> None:
    channel.stream_unary(f"{SERVICE}/RegisterAdapter")(iter([data]), metadata=_bearer(key), timeout=30)


def _bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


@pytest.mark.parametrize("data", [NO_UTF8, CUT_OFF], ids=["text that is no UTF-8", "cut off"])
@pytest.mark.parametrize("call", [unary, answered_by_a_stream, sent_as_a_stream])
def test_what_cannot_be_read_is_invalid_and_is_not_quoted(
    call: Callable[[grpc.Channel, bytes, str], None], data: bytes, channel: grpc.Channel, store: AdapterStore
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, data, OPERATOR)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "UTF-8" in refused.value.details()
    assert "SECRET" not in refused.value.details()
    trailing = dict(refused.value.trailing_metadata())
    assert trailing[ERROR_CODE_KEY] == "invalid"
    assert trailing[REQUEST_ID_KEY]
    assert store.tenants.list().items == []


@pytest.mark.parametrize("call", [unary, answered_by_a_stream, sent_as_a_stream])
def test_who_has_no_key_is_not_told_what_was_wrong_with_it(
    call: Callable[[grpc.Channel, bytes, str], None], channel: grpc.Channel
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, NO_UTF8, "nobody's")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_probe_that_cannot_be_read_is_invalid_without_a_key(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"\x0a\x02\xff\xff", timeout=30)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
