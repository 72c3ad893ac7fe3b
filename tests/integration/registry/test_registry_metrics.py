"""A registry counts its calls when it is told to show them; the trainer has the same kit and settings."""

import json
import time
import urllib.request
from pathlib import Path

import grpc
import pytest

from graftwork.client.errors import RemoteUnauthenticated
from graftwork.v1 import registry_pb2, registry_pb2_grpc
from tests.integration.registry.registry_process import OPERATOR, RegistryProcess


def metrics_port(registry: RegistryProcess) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for line in registry.log.read_text().splitlines():
            if '"serving"' in line:
                return int(json.loads(line)["metrics_port"])
        time.sleep(0.02)  # polls an outside process; nothing else tells
    raise AssertionError(registry.log.read_text())


def test_calls_are_counted_by_method_and_status(tmp_path: Path) -> None:
    registry = RegistryProcess(tmp_path, GRAFT_REGISTRY_METRICS_PORT="0")
    try:
        with registry.client() as client:
            client.create_tenant("acme")
        with registry.client("gwop_wrong") as stranger, pytest.raises(RemoteUnauthenticated):
            stranger.create_tenant("globex")
        with grpc.insecure_channel(registry.address) as channel:
            stub = registry_pb2_grpc.RegistryServiceStub(channel)
            stub.ListTenants(
                registry_pb2.ListTenantsRequest(), metadata=(("authorization", f"Bearer {OPERATOR}"),), timeout=30
            )
        url = f"http://127.0.0.1:{metrics_port(registry)}/metrics"
        text = urllib.request.urlopen(url, timeout=30).read().decode()
    finally:
        registry.stop()
    label = 'service="graftwork.v1.RegistryService"'
    assert f'graft_rpc_calls_total{{method="CreateTenant",{label},status="OK"}} 1.0' in text
    assert f'graft_rpc_calls_total{{method="CreateTenant",{label},status="UNAUTHENTICATED"}} 1.0' in text
    assert f'graft_rpc_seconds_count{{method="ListTenants",{label}}} 1.0' in text
    assert "acme" not in text
