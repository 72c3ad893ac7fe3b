"""Work for a client that leaves: it ends with it, and what comes after it is none of its business."""

import asyncio
import contextlib
from typing import Any

import pytest

from serving_service.api.http.errors import ClientGone
from serving_service.api.http.stream import Leaving
from tests.unit.serving.stream_world import Wire

pytestmark = pytest.mark.timeout(60)  # what these watch for shows as a task that stays


async def test_work_ends_with_its_client() -> None:
    wire = Wire()
    ended = asyncio.Event()

    async def work() -> None:
        try:
            wire.gone.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(ClientGone):
        await Leaving(wire.receive).unless_gone(work())
    assert ended.is_set()

    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling(), "what comes after it is not cancelled"

    async def quick() -> int:
        return 5

    leaving = Leaving(Wire().receive)
    assert await leaving.unless_gone(quick()) == 5
    assert not leaving.gone.done()  # the stream that follows is watched by the same
    leaving.close()
    await asyncio.wait([leaving.gone])
    assert leaving.gone.cancelled()


@pytest.mark.parametrize("ends", [5, RuntimeError("of its own")])
async def test_work_that_swallows_that_its_client_has_gone_is_not_answered(ends: int | Exception) -> None:
    """As vLLM's handlers do, which answer a cancellation."""
    wire = Wire()

    async def work() -> int:
        wire.gone.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if isinstance(ends, Exception):
            raise ends
        return ends

    with pytest.raises(ClientGone):
        await Leaving(wire.receive).unless_gone(work())
    await asyncio.sleep(0)  # is not cancelled


async def test_work_that_is_cancelled_itself_says_so_whether_its_client_has_gone_or_not() -> None:
    for gone in (False, True):
        wire = Wire()
        begun, ended = asyncio.Event(), asyncio.Event()

        async def work(begun: asyncio.Event = begun, ended: asyncio.Event = ended) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        leaving = Leaving(wire.receive)
        task = asyncio.create_task(leaving.unless_gone(work()))
        await begun.wait()
        if gone:
            leaving.gone.add_done_callback(lambda _, task=task: task.cancel())  # in the same turn
            wire.gone.set()
        else:
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert ended.is_set()
        leaving.close()


async def test_work_begins_in_the_turn_that_its_request_was_read_in() -> None:
    """Else of many requests that come at once none would begin before all of them have come."""
    order = []

    async def request(number: int) -> None:
        order.append(("read", number))

        async def work() -> None:
            order.append(("begun", number))

        leaving = Leaving(Wire().receive)
        await leaving.unless_gone(work())
        leaving.close()

    await asyncio.gather(*(request(number) for number in range(3)))
    assert order == [(what, number) for number in range(3) for what in ("read", "begun")]


async def test_what_comes_after_work_that_ended_as_its_client_left_is_not_cancelled() -> None:
    """Both in one turn of the loop: the work is done, and so is the wish to end it."""
    both = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await both.wait()
        return {"type": "http.disconnect"}

    async def work() -> int:
        await both.wait()
        return 5

    async def request() -> int:
        answer = await Leaving(receive).unless_gone(work())
        for _ in range(5):
            await asyncio.sleep(0)  # giving things back takes a few turns
        return answer

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    both.set()
    assert await task == 5
