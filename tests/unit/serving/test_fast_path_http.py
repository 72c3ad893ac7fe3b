"""OpenAI's API over merged engines: a whole answer, or a stream's first event, that a death takes away comes from the adapter."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapter_store import open_store
from adapter_store.api.keyring import Keyring
from graftwork.rpc.auth import OPERATOR_PREFIX
from serving_service.api.http.app import create_app
from serving_service.api.http.routes import OpenAIRoutes
from serving_service.core.observing import CallEnded
from serving_service.core.prompt_limits import PromptLimits
from serving_service.engine.openai_protocol import Kind, Run
from serving_service.engine.protocol import EngineUnavailable
from tests.unit.serving.merged_world import MergedEngine, World, version

OPERATOR = OPERATOR_PREFIX + secrets.token_hex(24)


class About:
    base_model, max_model_len = "base", 512


class Front:
    """What the routes need of the core, over a world's generation."""

    limits = PromptLimits(1000, 10)

    def __init__(self, world: World) -> None:
        self.open = world.core.open

    def max_model_len(self) -> int:
        return 512

    def about(self) -> About:
        return About()


class Answering:
    """The backbone's engine in OpenAI's form."""

    async def answer(self, kind: Kind, body: dict[str, Any], run: Run) -> str:
        assert run.lora is not None
        run.prompted(3)
        run.answered(2, True, "stop")
        return '{"by": "adapter"}'


async def _merged_answer(engine: MergedEngine, kind: Kind, body: dict[str, Any], run: Run) -> str:
    assert run.lora is None
    assert run.template == "{{ messages }}"
    run.prompted(3)
    run.answered(1)
    if body["prompt"] == "die":
        engine.kill()
        error = EngineUnavailable("died")
        run.failed(error)
        raise error
    run.answered(1, True, "stop")
    return '{"by": "merged"}'


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(MergedEngine, "answer", _merged_answer, raising=False)
    made = World(tmp_path)
    await made.fast_path.promote(version(1), wait=True)
    yield made
    await made.close()


async def test_http_goes_to_the_merged_engine_and_back_to_the_adapter_when_it_dies(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "operator.key").write_text(OPERATOR)
    keyring = Keyring(open_store(f"file://{tmp_path}/store"), tmp_path / "operator.key")
    app = create_app([OpenAIRoutes(Front(world), Answering(), keyring).router])  # type: ignore[arg-type]
    headers = {"authorization": f"Bearer {OPERATOR}", "x-graft-tenant": "acme"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here", headers=headers) as client:
        for prompt, route, by in (
            ("go", "merged", "merged"),
            ("die", "swapped", "adapter"),
            ("go", "swapped", "adapter"),
        ):
            answer = await client.post("/v1/completions", json={"model": "task", "prompt": prompt})
            assert (answer.status_code, answer.json()) == (200, {"by": by}), answer.text
            assert answer.headers["x-graft-route"] == route
            assert answer.headers["x-graft-version"] == version(1).version
    ended = [event for event in world.seen if isinstance(event, CallEnded)]
    assert [(one.outcome, one.route, one.prompt_tokens, one.completion_tokens) for one in ended] == [
        ("ok", "merged", 3, 2), ("ok", "swapped", 3, 2), ("ok", "swapped", 3, 2)
    ]  # fmt: skip
