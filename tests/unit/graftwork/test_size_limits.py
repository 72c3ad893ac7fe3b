"""What may be sent has a size: messages, metadata, names and texts; more is refused before anybody works on it."""

from collections.abc import Iterator

import grpc
import pytest

from adapter_store import AdapterStore
from adapter_store.audit import AuditEntry, FieldChange, cut
from graftwork.client import Client
from graftwork.client.errors import RemoteInvalid, RemoteUnauthenticated
from graftwork.rpc.server import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from graftwork.v1 import registry_pb2, registry_pb2_grpc
from tests.unit.graftwork.registry_world import OPERATOR, Registry


@pytest.fixture
def operator(registry: Registry) -> Iterator[Client]:
    with Client(f"127.0.0.1:{registry.port}", "127.0.0.1:1", OPERATOR) as made:
        yield made


def call(registry: Registry, request: registry_pb2.CreateTenantRequest, **more: str) -> grpc.RpcError:
    """Makes a call past the client's own limits; returns its refusal."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 24)]
    metadata = (("authorization", f"Bearer {OPERATOR}"), *more.items())
    with grpc.insecure_channel(f"127.0.0.1:{registry.port}", options) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.CreateTenant(request, metadata=metadata, timeout=30)
    return refused.value


def test_a_message_above_the_limit_is_refused_unread(registry: Registry, store: AdapterStore) -> None:
    refused = call(registry, registry_pb2.CreateTenantRequest(tenant_id="a", request_id="x" * MAX_MESSAGE_BYTES))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert store.tenants.list().items == []


def test_metadata_above_the_limit_is_refused(registry: Registry, store: AdapterStore) -> None:
    request = registry_pb2.CreateTenantRequest(tenant_id="a")
    refused = call(registry, request, filler="x" * (MAX_METADATA_BYTES + 1))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert store.tenants.list().items == []


def test_names_have_63_characters_and_a_refusal_does_not_repeat_more(operator: Client) -> None:
    operator.create_tenant("a" * 63)
    for wrong in ("a" * 64, "b" * 1_000_000):
        with pytest.raises(RemoteInvalid) as refused:
            operator.create_tenant(wrong)
        assert len(str(refused.value)) < 300


def test_a_token_that_no_key_can_be_is_not_worth_hashing(registry: Registry) -> None:
    with (
        Client(f"127.0.0.1:{registry.port}", "127.0.0.1:1", "gwop_" + "0" * 5000) as long,
        pytest.raises(RemoteUnauthenticated),
    ):
        list(long.list_tenants())


def test_texts_for_people_are_cut(operator: Client) -> None:
    operator.create_tenant("acme")
    assert len(operator.create_key("acme", "n" * 5000).key.display_name) == 200
    long = cut("r" * 5000)
    assert len(long) == 1000
    AuditEntry.model_validate_json(
        AuditEntry(
            id="0" * 16,
            at="2026-11-28T00:00:00Z",
            service="s",
            actor="a",
            action="b",
            outcome="ok",
            changes=(FieldChange(field="f", before=long, after=long),),
        ).model_dump_json()
    )


def test_a_request_id_has_128_characters(operator: Client) -> None:
    request = registry_pb2.UpdateTenantRequest(name="tenants/acme", request_id="x" * 129)
    with pytest.raises(RemoteInvalid, match="128"):
        operator.update_tenant(request)
