"""What the service tells the engine's staging thread over its socket."""

import asyncio
from pathlib import Path
from typing import Any

from serving_service.engine.staging_client import StagingClient


async def test_cores_that_are_to_be_left_reach_the_worker(tmp_path: Path) -> None:
    from serving_service.vllm_plugin.staging import Stager

    loop, told = asyncio.get_running_loop(), asyncio.Queue[int]()
    manager: Any = None  # nothing is staged
    path = tmp_path / "line"
    Stager(manager, path, lambda cores: loop.call_soon_threadsafe(told.put_nowait, cores) and None)
    client = await StagingClient.connect([str(path)])
    async with asyncio.timeout(20):
        for cores in (1, 0):
            client.leave_cores(cores)
            assert await told.get() == cores
    await client.close()
