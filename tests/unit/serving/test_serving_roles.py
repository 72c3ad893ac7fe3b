"""Who is let in over HTTP: a viewer looks and does not generate, wrong keys wait, on one door with gRPC."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from prometheus_client import CollectorRegistry

from adapter_store import open_store
from adapter_store.api.keyring import Keyring
from graftwork.operator_keys import OperatorKeyFile
from graftwork.rpc.auth import OPERATOR_PREFIX, Role
from graftwork.rpc.door import Door
from serving_service.api.http.app import create_app
from serving_service.api.http.health import Probed, health_router
from serving_service.api.http.routes import OpenAIRoutes
from serving_service.api.http.server import HttpServer
from serving_service.observe.loop_lag import LoopLag

OPERATOR = OPERATOR_PREFIX + secrets.token_hex(24)


class Serving:
    """The little of the core that answers without an engine."""

    def about(self) -> Any:
        return SimpleNamespace(base_model="base", max_model_len=100)


@pytest.fixture
def keys(tmp_path: Path) -> OperatorKeyFile:
    file = tmp_path / "operator.key"
    file.write_text(f"{OPERATOR}\n")
    return OperatorKeyFile(file)


@pytest.fixture
async def http(tmp_path: Path, keys: OperatorKeyFile) -> AsyncIterator[httpx.AsyncClient]:
    door = Door(Keyring(open_store(f"file://{tmp_path}/store"), keys.path), 3)
    registry = CollectorRegistry()
    routes = OpenAIRoutes(cast(Any, Serving()), cast(Any, None), door)
    probed = Probed(cast(Any, None), registry, LoopLag(registry), door)
    server = HttpServer(create_app([routes.router, health_router(probed)]), "127.0.0.1", 0, None, 1)
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client
    await server.stop()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_a_viewer_lists_models_and_metrics_and_generates_nothing(
    http: httpx.AsyncClient, keys: OperatorKeyFile
) -> None:
    viewer = keys.add("prometheus", Role.VIEWER)
    assert (await http.get("/v1/models", headers=bearer(viewer))).status_code == 200
    assert (await http.get("/metrics", headers=bearer(viewer))).status_code == 200
    for path in ("/v1/chat/completions", "/v1/completions"):
        refused = await http.post(path, headers=bearer(viewer), json={"model": "base", "prompt": "x", "messages": []})
        assert refused.status_code == 403
        assert "only looks" in refused.json()["error"]["message"]
    keys.remove("prometheus")
    assert (await http.get("/metrics", headers=bearer(viewer))).status_code == 401


async def test_wrong_keys_wait_and_are_told_how_long_on_every_path(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/models", headers=bearer(OPERATOR))).status_code == 200
    for path in ("/v1/models", "/metrics", "/v1/models"):
        assert (await http.get(path, headers=bearer(f"{OPERATOR}0"))).status_code == 401
    held = await http.get("/v1/models", headers=bearer(f"{OPERATOR}0"))
    assert held.status_code == 429
    assert 1 <= int(held.headers["retry-after"]) <= 21
    assert (await http.get("/metrics", headers=bearer(f"{OPERATOR}1"))).status_code == 429
    assert (await http.get("/v1/models", headers=bearer(OPERATOR))).status_code == 200
