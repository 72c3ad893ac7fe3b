"""What the service tells the engine's staging thread over its socket."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from serving_service.engine.staging_client import StagingClient


async def test_cores_that_are_to_be_left_reach_the_worker_which_says_when_it_has_left_them(tmp_path: Path) -> None:
    from serving_service.vllm_plugin.reserve import Reserve
    from serving_service.vllm_plugin.staging import Stager

    loop, told, step = asyncio.get_running_loop(), asyncio.Queue[int](), threading.Event()
    manager: Any = None  # nothing is staged

    def leave(cores: int) -> None:
        loop.call_soon_threadsafe(told.put_nowait, cores)
        if cores:
            step.wait(20)  # the step under way

    Stager(manager, tmp_path / "line", Reserve(0), leave)
    client = await StagingClient.connect([str(tmp_path / "line")])
    async with asyncio.timeout(20):
        client.leave_cores(1)
        left = asyncio.create_task(client.left(20))
        assert await told.get() == 1
        assert not left.done(), "a step computes with all cores"
        step.set()
        await left
        client.leave_cores(0)
        assert await told.get() == 0
    await client.close()
