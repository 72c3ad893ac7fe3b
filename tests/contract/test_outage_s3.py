"""A real S3 server behind a connection that is cut: known names go on, unknown ones fail at once, all is well when it is mended."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from minio import Minio

from adapter_store import open_store
from adapter_store.backends.s3 import S3Backend
from adapter_store.errors import NotFound, StoreUnavailable
from adapter_store.outage import Outage
from adapter_store.tenants import Tenants
from tests.contract.cuttable_proxy import CuttableProxy
from tests.contract.rgw import Rgw

pytestmark = [pytest.mark.s3, pytest.mark.slow]


@pytest.fixture
def proxy(rgw: Rgw) -> Iterator[CuttableProxy]:
    with CuttableProxy(rgw.endpoint) as made:
        yield made


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_cut_connection_is_found_out_once(rgw: Rgw, proxy: CuttableProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tenants after their cache time: nobody waits for the retries, and once they have failed nobody asks any more."""
    bucket = f"outage-{uuid.uuid4().hex[:12]}"
    host = rgw.endpoint.removeprefix("http://")
    Minio(host, rgw.access_key, rgw.secret_key, secure=False, region="us-east-1").make_bucket(bucket)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rgw.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rgw.secret_key)
    store = open_store(f"s3://{bucket}/p?endpoint={proxy.endpoint}&region=us-east-1")
    clock = Clock()
    outage = Outage(clock)
    tenants = Tenants(store.tenants._backend, clock, outage)
    secrets = {}
    for number in range(10):
        tenants.create(f"t{number}")
        secrets[f"t{number}"] = tenants.issue_key(f"t{number}", "tests").secret
    asked: list[str] = []
    lock = threading.Lock()
    children = S3Backend.children

    def counted(self: S3Backend, prefix: str, **more: Any) -> list[str]:
        with lock:
            asked.append(prefix)
        return children(self, prefix, **more)

    monkeypatch.setattr(S3Backend, "children", counted)
    proxy.cut()
    clock.now += 3600
    for tenant, secret in secrets.items():  # the first of them finds out; none waits for the retries
        assert tenants.authenticate(secret).tenant == tenant
    wait_until(lambda: not outage.state.reachable)
    noticed = len(asked)
    assert noticed <= 10
    for _ in range(3):
        for tenant, secret in secrets.items():
            assert tenants.authenticate(secret).tenant == tenant
        with pytest.raises(StoreUnavailable):
            tenants.authenticate("gw_unknown_" + "0" * 48)
    assert len(asked) == noticed
    proxy.mend()
    clock.now += 1
    tenants.authenticate(secrets["t0"])
    wait_until(lambda: outage.state.reachable)
    for tenant, secret in secrets.items():
        assert tenants.authenticate(secret).tenant == tenant
    assert len(asked) == noticed + 10
    with pytest.raises(NotFound):
        tenants.get("unknown")


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # what is waited for happens in the store's own threads
