"""The image's health check, asked about a real trainer and about HTTP ports that say yes, no, or nothing."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from graftwork.backbone import default_path
from tests.deploy.places import ROOT
from tests.integration.trainer.trainer_process import TrainerProcess

CHECK = ROOT / "deploy/docker/healthcheck.py"


def check(*words: str, **environment: object) -> tuple[int, str]:
    """Exit code and what it says."""
    done = subprocess.run(
        [sys.executable, CHECK, *words],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            **{name: str(value) for name, value in environment.items()},
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture
def loading() -> Iterator[int]:
    """A port that answers as serving does while it loads: alive, and not ready."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 503)
            self.end_headers()
            self.wfile.write(b'{"ready": false}')

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_service_that_loads_is_alive_and_not_ready(loading: int) -> None:
    told = {"GRAFT_SERVING_HTTP_PORT": loading, "GRAFT_SERVING_CACHE_DIR": "/x"}
    assert check("--alive", **told) == (0, "")
    code, said = check(**told)
    assert code == 1
    assert "/readyz answers 503" in said


def test_nobody_there_is_not_healthy() -> None:
    for words, name in ((("serving",), "GRAFT_SERVING_HTTP_PORT"), (("console",), "GRAFT_CONSOLE_PORT"), (("trainer",), "GRAFT_TRAINER_PORT")):  # fmt: skip
        code, said = check(*words, **{name: unused_port()})
        assert code == 1
        assert said.startswith(words[0])


def test_an_unknown_service_is_an_error_of_its_own() -> None:
    assert check("registryy")[0] == 2


def test_a_trainer_that_runs_is_healthy_and_one_that_ended_is_not(tmp_path: Path) -> None:
    with TrainerProcess(tmp_path, default_path()) as trainer:
        told = {"GRAFT_TRAINER_STATE_DIR": trainer.state, "GRAFT_TRAINER_PORT": trainer.address.rpartition(":")[2]}
        assert check(**told) == (0, "")
    assert check(**told)[0] == 1
