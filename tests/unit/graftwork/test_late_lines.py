"""Late lines come after the answers that they tell of: each once, in order, as what was known when it was said, and none is lost."""

import asyncio
import contextvars
import gc
import json
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from graftwork import late_lines
from graftwork.late_lines import MOST, flush, log_late


class Log:
    """In structlog's place."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.threads: set[int] = set()

    def log(self, level: int, event: str, **fields: Any) -> None:
        self.threads.add(threading.get_ident())
        self.lines.append({"level": level, "event": event, **fields})

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.lines) < count:  # noqa: ASYNC110  what is waited for is the loop itself
                await asyncio.sleep(0)


DELAY_S = 0.3
"""Longer than a busy machine holds a test up, which looks whether a line has waited."""


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    flush()
    monkeypatch.setattr(late_lines, "DELAY_S", DELAY_S)
    yield Log()
    flush()
    structlog.contextvars.clear_contextvars()


def say(log: Log, event: str) -> None:
    log_late(log, logging.INFO, event, dict)


async def test_a_line_comes_a_moment_later_with_what_surrounded_it_when_it_was_said(log: Log) -> None:
    async def call(name: str) -> None:
        structlog.contextvars.bind_contextvars(request_id=name)
        log_late(log, logging.WARNING, "call", lambda: {"name": name})

    began, clock = time.time(), time.monotonic()
    await asyncio.gather(*(asyncio.create_task(call(name)) for name in "abc"))
    said = time.time()
    assert not log.lines
    await log.until(3)
    assert time.monotonic() - clock >= DELAY_S * 0.9
    assert [(line["name"], line["request_id"], line["level"]) for line in log.lines] == [
        (name, name, logging.WARNING) for name in "abc"
    ]
    for line in log.lines:
        assert line["timestamp"].endswith("Z")
        assert began <= datetime.fromisoformat(line["timestamp"]).timestamp() <= said


async def test_each_line_waits_by_itself_not_only_the_first_after_a_quiet_moment(log: Log) -> None:
    say(log, "first")
    await asyncio.sleep(DELAY_S * 0.8)
    said = time.monotonic()
    say(log, "second")
    await log.until(2)
    assert log.events == ["first", "second"]
    assert time.monotonic() - said >= DELAY_S * 0.9


async def test_others_come_in_between_when_there_is_much_to_write(log: Log) -> None:
    def slow() -> dict[str, Any]:
        time.sleep(late_lines._AT_ONCE_S)  # a line that takes long
        return {}

    for number in range(20):
        log_late(log, logging.INFO, f"{number}", slow)
    await log.until(1)
    assert len(log.lines) < 20
    await log.until(20)
    assert log.events == [f"{number}" for number in range(20)]


async def test_who_says_more_than_can_be_written_writes_it_himself(log: Log) -> None:
    for number in range(MOST + 50):
        say(log, f"{number}")
    assert log.events == [f"{number}" for number in range(50)]
    await log.until(MOST + 50)


async def test_a_line_that_cannot_be_made_holds_up_none_behind_it(log: Log) -> None:
    def broken() -> dict[str, Any]:
        raise LookupError("no such field")

    with structlog.testing.capture_logs() as told:
        log_late(log, logging.INFO, "broken", broken)
        say(log, "next")
        await log.until(1)
        log_late(log, logging.INFO, "broken", broken)
        say(log, "flushed")
        flush()
    assert log.events == ["next", "flushed"]
    assert [(one["line"], one["log_level"]) for one in told] == [("broken", "error")] * 2


async def test_a_line_that_waits_keeps_nothing_of_its_call_but_its_fields(log: Log) -> None:
    class Answer:
        pass

    answer = Answer()
    gone = weakref.ref(answer)

    async def call(answer: Answer) -> None:
        contextvars.ContextVar[Answer]("answer").set(answer)
        say(log, "call")

    await asyncio.create_task(call(answer))
    del answer
    await asyncio.sleep(0)  # until the loop itself has let go of the task
    gc.collect()
    assert not log.lines
    assert gone() is None


def test_without_a_loop_a_line_is_written_at_once(log: Log) -> None:
    say(log, "now")
    assert log.events == ["now"]


def test_what_a_loop_left_when_it_ended_is_written_by_flush_and_by_the_next_loop(log: Log) -> None:
    async def call(name: str) -> None:
        say(log, name)

    asyncio.run(call("left"))
    assert not log.lines
    flush()
    assert log.events == ["left"]
    asyncio.run(call("left again"))

    async def another() -> None:
        await call("new")
        await log.until(3)

    asyncio.run(another())
    assert log.events == ["left", "left again", "new"]


def test_loops_of_several_threads_write_each_line_once(log: Log) -> None:
    async def calls(thread: int) -> None:
        for number in range(200):
            say(log, f"{thread}-{number}")
            await asyncio.sleep(0)
        await asyncio.sleep(DELAY_S)  # some write their own, some others', and the rest is left

    threads = [threading.Thread(target=lambda n=n: asyncio.run(calls(n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    flush()
    assert sorted(log.events) == sorted(f"{thread}-{number}" for thread in range(4) for number in range(200))


def test_nothing_is_lost_at_the_end_of_the_process() -> None:
    program = """
import asyncio, logging, structlog
from graftwork.late_lines import log_late
from graftwork.logs import configure_logs

configure_logs("test")

async def call():
    log_late(structlog.get_logger(), logging.INFO, "call", lambda: {"ms": 1})

asyncio.run(call())
"""
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    line = json.loads(made.stderr)
    assert (line["event"], line["ms"], line["service"], line["level"]) == ("call", 1, "test", "info")
    assert abs(datetime.now(UTC).timestamp() - datetime.fromisoformat(line["timestamp"]).timestamp()) < 60
