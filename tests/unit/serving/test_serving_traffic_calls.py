"""GetTraffic over a real socket, through the client and through `graft`: whose numbers a key sees, and what is printed of them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_store import AdapterStore, open_store
from graftwork.client.errors import RemoteInvalid, RemoteNotFound
from graftwork.v1 import serving_pb2 as pb
from serving_service.api.convert_traffic import reason_of
from serving_service.core.admission_limits import TenantPolicy
from tests.unit.serving.scripted import ScriptedEngine
from tests.unit.serving.scripted_service import OPERATOR, ScriptedService


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def service(tmp_path: Path, store: AdapterStore) -> Iterator[ScriptedService]:
    service = ScriptedService(tmp_path, store, ScriptedEngine(), TenantPolicy(requests_per_minute=3))
    yield service
    service.stop()


@pytest.fixture
def keys(store: AdapterStore) -> dict[str, str]:
    """Of the tenants acme and globex."""
    for tenant in ("acme", "globex"):
        store.tenants.create(tenant)
    return {tenant: store.tenants.issue_key(tenant, "test").secret for tenant in ("acme", "globex")}


def ask(service: ScriptedService, key: str, times: int, model: str = "") -> None:
    with service.client(key) as client:
        for _ in range(times):
            client.generate(pb.GenerateRequest(prompt="a secret prompt", model=model))


def graft(service: ScriptedService, folder: Path, key: str, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
    environment |= {"GRAFT_SERVING": service.address, "GRAFT_API_KEY": key, "COLUMNS": "300"}
    command = [sys.executable, "-m", "graftwork.cli.main", "--home", str(folder / "home"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
    return done.stdout


def test_a_tenant_sees_itself_an_operator_everybody(service: ScriptedService, keys: dict[str, str]) -> None:
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


def test_a_tenant_over_its_limit_is_counted_by_reason(service: ScriptedService, keys: dict[str, str]) -> None:
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


def test_charts_of_everybody_have_latencies_for_the_total_alone(service: ScriptedService, keys: dict[str, str]) -> None:
    ask(service, keys["acme"], 1)
    with service.client(OPERATOR) as client:
        plain, seen, own = client.traffic(), client.traffic(series=True), client.traffic("acme", series=True)
    assert not plain.total.HasField("recent")
    rows = (seen.total, seen.tenants[0], own.tenants[0])
    assert [len(row.hour.requests) for row in rows] == [60, 60, 60]
    assert [len(row.hour.first_token_p50_ms) for row in rows] == [60, 0, 60]


def test_a_reason_is_the_errors_name_as_it_is_written_elsewhere() -> None:
    assert [reason_of(name) for name in ("RateLimited", "QueueFull", "NotFound")] == [
        "rate_limited",
        "queue_full",
        "not_found",
    ]


def test_the_command_prints_a_table_json_and_goes_on_watching(
    service: ScriptedService, keys: dict[str, str], tmp_path: Path
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
