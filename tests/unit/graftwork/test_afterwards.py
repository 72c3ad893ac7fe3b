"""What can wait until an answer has gone out is done after it, once, in its call's own context, and nothing of it is lost."""

import asyncio
import contextvars
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from graftwork import afterwards as waiting
from graftwork.afterwards import afterwards, flush

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME")


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    flush()
    yield
    flush()


async def until(done: list[str], count: int) -> None:
    while len(done) < count:  # noqa: ASYNC110  what is waited for is the loop itself
        await asyncio.sleep(0)


async def test_it_is_done_a_moment_later_in_its_order_and_each_in_its_own_context() -> None:
    done: list[str] = []

    async def call(name: str) -> None:
        NAME.set(name)
        afterwards(lambda: done.append(NAME.get()))

    began = time.monotonic()
    await asyncio.gather(*(asyncio.create_task(call(name)) for name in "abc"))
    assert not done
    await asyncio.wait_for(until(done, 3), 10)
    assert done == ["a", "b", "c"]
    assert time.monotonic() - began >= waiting.DELAY_S * 0.9


async def test_others_come_in_between_when_there_is_much_to_do() -> None:
    done: list[str] = []
    for _ in range(20):
        afterwards(lambda: (time.sleep(waiting._AT_ONCE_S), done.append("line"))[1])
    await asyncio.wait_for(until(done, 1), 10)
    assert len(done) < 20
    await asyncio.wait_for(until(done, 20), 10)


async def test_one_that_fails_holds_up_none_behind_it() -> None:
    done: list[str] = []
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context["exception"]))
    afterwards(lambda: done.append(NAME.get()))  # not set here
    afterwards(lambda: done.append("next"))
    await asyncio.wait_for(until(done, 1), 10)
    assert done == ["next"]
    assert [type(one) for one in failures] == [LookupError]
    afterwards(lambda: done.append("later"))
    await asyncio.wait_for(until(done, 2), 10)


def test_without_a_loop_it_is_done_at_once() -> None:
    done: list[str] = []
    afterwards(lambda: done.append("now"))
    assert done == ["now"]


def test_what_a_loop_left_when_it_ended_is_done_by_flush_and_by_the_next_loop() -> None:
    done: list[str] = []

    async def call(name: str) -> None:
        afterwards(lambda: done.append(name))

    asyncio.run(call("left"))
    assert not done
    flush()
    assert done == ["left"]
    asyncio.run(call("left again"))

    async def another() -> None:
        await call("new")
        await asyncio.wait_for(until(done, 3), 10)

    asyncio.run(another())
    assert done == ["left", "left again", "new"]


def test_nothing_is_lost_at_the_end_of_the_process() -> None:
    program = """
import asyncio
from graftwork.afterwards import afterwards

async def call():
    afterwards(lambda: print("the line"))

asyncio.run(call())
"""
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert made.stdout == "the line\n"
