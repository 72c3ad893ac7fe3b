"""GetTraffic over a real socket, through the client and through `graft`: whose numbers a key sees, and what is printed of them."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from adapter_store import AdapterStore, open_store, read_base
from adapter_store.api.keyring import Keyring
from graftwork.client import Client
from graftwork.client.errors import RemoteInvalid, RemoteNotFound
from graftwork.rpc.auth import OPERATOR_PREFIX
from graftwork.rpc.server import build_server
from graftwork.v1 import serving_pb2 as pb
from graftwork.v1 import serving_pb2_grpc
from serving_service.api.convert_traffic import reason_of
from serving_service.api.servicer import ServingServicer
from serving_service.core.admission_limits import TenantPolicy
from serving_service.core.prompt_limits import PromptLimits
from serving_service.core.service import Serving
from tests.store_samples import make_base
from tests.unit.serving.scripted import ADMISSION, ScriptedEngine

OPERATOR = OPERATOR_PREFIX + secrets.token_hex(24)
_T = TypeVar("_T")


class Service:
    """The serving service with a scripted engine, on a loop and a thread of its own."""

    def __init__(self, folder: Path, store: AdapterStore) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.address = self._run(self._start(folder, store))

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self, folder: Path, store: AdapterStore) -> str:
        key_file = folder / "operator.key"
        key_file.write_text(OPERATOR)
        self._serving = Serving(
            store=store,
            base=read_base(make_base(folder / "base")),
            engine=ScriptedEngine(),
            cache_dir=folder / "cache",
            disk_budget_bytes=10**9,
            host_budget_bytes=10**9,
            max_lora_rank=16,
            limits=PromptLimits(1000, 10),
            admission=ADMISSION,
            tenant_defaults=TenantPolicy(requests_per_minute=3),
        )
        await self._serving.start()
        name = "graftwork.v1.ServingService"
        self._rpc = await build_server(
            authenticator=Keyring(store, key_file), host="127.0.0.1", port=0, service_names=[name]
        )
        serving_pb2_grpc.add_ServingServiceServicer_to_server(ServingServicer(self._serving), self._rpc.server)
        await self._rpc.server.start()
        return f"127.0.0.1:{self._rpc.port}"

    def client(self, key: str) -> Client:
        return Client("unix:/nonexistent-trainer", self.address, key)

    def stop(self) -> None:
        self._run(self._rpc.server.stop(None))
        self._run(self._serving.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def service(tmp_path: Path, store: AdapterStore) -> Iterator[Service]:
    service = Service(tmp_path, store)
    yield service
    service.stop()


@pytest.fixture
def keys(store: AdapterStore) -> dict[str, str]:
    """Of the tenants acme and globex."""
    for tenant in ("acme", "globex"):
        store.tenants.create(tenant)
    return {tenant: store.tenants.issue_key(tenant, "test").secret for tenant in ("acme", "globex")}


def ask(service: Service, key: str, times: int, model: str = "") -> None:
    with service.client(key) as client:
        for _ in range(times):
            client.generate(pb.GenerateRequest(prompt="a secret prompt", model=model))


def graft(service: Service, folder: Path, key: str, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
    environment |= {"GRAFT_SERVING": service.address, "GRAFT_API_KEY": key, "COLUMNS": "300"}
    command = [sys.executable, "-m", "graftwork.cli.main", "--home", str(folder / "home"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
    return done.stdout


def test_a_tenant_sees_itself_an_operator_everybody(service: Service, keys: dict[str, str]) -> None:
    ask(service, keys["acme"], 2)
    ask(service, keys["globex"], 1)
    ask(service, OPERATOR, 1)
    with pytest.raises(RemoteNotFound):
        ask(service, keys["globex"], 1, "nothing")
    with service.client(OPERATOR) as client:
        seen = client.traffic()
        assert [row.tenant for row in seen.tenants] == ["acme", "", "globex"], "most tokens first"
        assert seen.total.windows[0].requests == 5
        assert client.traffic("globex").tenants[0].windows[0].rejections == {"not_found": 1}
        with pytest.raises(RemoteInvalid):
            client.traffic("NO NAME")
    with service.client(keys["acme"]) as client:
        for seen in (client.traffic(), client.traffic("acme")):
            (row,) = seen.tenants
            assert not seen.HasField("total"), "of others it may not even know that there are any"
            assert (row.tenant, row.windows[0].requests, row.windows[0].completion_tokens) == ("acme", 2, 8)
        with pytest.raises(RemoteNotFound) as other:
            client.traffic("globex")
        with pytest.raises(RemoteNotFound) as none:
            client.traffic("nobody-at-all")
        assert str(other.value).replace("globex", "nobody-at-all") == str(none.value)


def test_a_tenant_over_its_limit_is_counted_by_reason(service: Service, keys: dict[str, str]) -> None:
    ask(service, keys["acme"], 3)
    with service.client(keys["acme"]) as client:
        for _ in range(4):
            with pytest.raises(Exception, match="over its limit"):
                client.generate(pb.GenerateRequest(prompt="x"))
        (row,) = client.traffic(series=True).tenants
    window = row.windows[0]
    assert (window.requests, window.answered, window.rejected) == (7, 3, 4)
    assert window.rejections == {"rate_limited": 4}
    assert window.first_token.count == 3
    assert 0 < window.first_token.p50_ms <= window.first_token.p95_ms
    assert 0 < window.whole_answer.p50_ms <= window.whole_answer.p95_ms
    assert {len(values) for series in (row.recent, row.hour) for values in (series.requests, series.rejected)} == {60}


def test_a_reason_is_the_errors_name_as_it_is_written_elsewhere() -> None:
    assert [reason_of(name) for name in ("RateLimited", "QueueFull", "NotFound")] == [
        "rate_limited",
        "queue_full",
        "not_found",
    ]


def test_the_command_prints_a_table_json_and_goes_on_watching(
    service: Service, keys: dict[str, str], tmp_path: Path
) -> None:
    ask(service, keys["acme"], 2)
    ask(service, OPERATOR, 1)
    everybody = graft(service, tmp_path, OPERATOR, "traffic").splitlines()
    assert [line.split()[0] for line in everybody[2:]] == ["acme", "(operators)", "all"]
    assert everybody[2].split()[3] == "2"
    own = graft(service, tmp_path, keys["acme"], "traffic").splitlines()
    assert [line.split()[:2] for line in own[2:]] == [["1", "min"], ["5", "min"], ["60", "min"]]
    assert "globex" not in "".join(own)
    value = json.loads(graft(service, tmp_path, OPERATOR, "traffic", "--json"))
    assert [row["tenant"] for row in value["tenants"]] == ["acme", ""]
    environment = os.environ | {"GRAFT_SERVING": service.address, "GRAFT_API_KEY": OPERATOR}
    command = [sys.executable, "-m", "graftwork.cli.main", "--home", str(tmp_path), "traffic", "--json"]
    with subprocess.Popen(
        [*command, "--watch", "--every", "0.2"], stdout=subprocess.PIPE, env=environment, text=True
    ) as watching:
        assert watching.stdout is not None
        looks = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.terminate()
    assert [look["total"]["windows"][0]["requests"] for look in looks] == ["3", "3"]
