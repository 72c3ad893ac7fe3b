"""The console beside the services: started, started again, ended, and never a reason to fail for them."""

import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from graftwork.local import console_process
from graftwork.local.console_process import NO_CONSOLE, ConsoleProcess
from graftwork.local.fleet import last_line
from graftwork.local.home import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(console_process, "PAUSES_S", (0,))
    home = Home.open(tmp_path)
    home.prepare()
    return home


def made(home: Home, port: int, said: list[str]) -> ConsoleProcess:
    return ConsoleProcess(home, port, said.append, lambda: last_line(home.console_log_file), lambda: None)


def until(console: ConsoleProcess, probe: Callable[[], object]) -> None:
    """Looks after the console, as `graft up` does, until something is so."""
    deadline = time.monotonic() + 60
    pause = threading.Event()
    while not probe():
        assert time.monotonic() < deadline
        console.poll()
        pause.wait(0.05)


def alive(home: Home) -> bool:
    address = home.console_address()
    if address is None:
        return False
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/healthz", timeout=10) as answer:
        return bool(answer.read() == b"ok")


def test_it_is_started_again_when_it_dies_and_leaves_nothing_behind(home: Home) -> None:
    said: list[str] = []
    console = made(home, 0, said)
    try:
        until(console, lambda: alive(home))
        assert console._process is not None
        first = console._process.pid
        console._process.kill()
        console._process.wait()
        until(console, lambda: console._process is not None and console._process.pid != first)
        until(console, lambda: alive(home))
    finally:
        console.end()
    assert [" ".join(line.split()[:2]) for line in said] == ["console started", "the console", "console started"]
    assert "SIGKILL" in said[1]
    assert home.console_address() is None


def test_one_that_cannot_listen_says_why_and_lets_the_services_be(home: Home) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        console = made(home, taken.getsockname()[1], said)
        try:
            until(console, lambda: any("exit code 1" in line for line in said))
        finally:
            console.end()
    assert any("choose another port" in line for line in said)


def test_none_is_started_where_none_is_wanted(home: Home) -> None:
    said: list[str] = []
    console = made(home, NO_CONSOLE, said)
    console.poll()
    console.end()
    assert said == []
    assert not home.console_log_file.exists()
