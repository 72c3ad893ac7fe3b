"""The image's health check, asked about a real trainer, about serving's own probe routes in each state, and about nobody."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from adapter_store.outage import StoreState
from graftwork.backbone import default_path
from graftwork.rpc.tls import TlsFiles
from serving_service.api.http.health import Probed, health_router
from serving_service.api.http.server import HttpServer
from serving_service.core.readiness import ReadinessBook
from serving_service.observe.loop_lag import LoopLag
from tests.deploy.places import ROOT
from tests.integration.trainer.trainer_process import TrainerProcess
from tests.unit.graftwork.certificates import Authority

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


@dataclass
class Probes:
    """Serving's own probe routes on their own server, and the states that they tell of."""

    states: ReadinessBook
    port: int


@asynccontextmanager
async def serving(tls: TlsFiles | None = None) -> AsyncIterator[Probes]:
    """As the service shows them while it loads; `states.loaded()` makes it ready."""
    reachable = StoreState(True, datetime.now(UTC), "")
    states, registry = ReadinessBook(lambda: True, lambda: reachable), CollectorRegistry()
    server = HttpServer(health_router(Probed(states.current, registry, LoopLag(registry))), "127.0.0.1", 0, tls, 1)
    await server.start()
    yield Probes(states, server.port)
    await server.stop()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_service_that_loads_is_alive_and_not_ready() -> None:
    async with serving() as probes:
        told = {"GRAFT_SERVING_HTTP_PORT": probes.port, "GRAFT_SERVING_CACHE_DIR": "/x"}
        assert await asyncio.to_thread(check, "--alive", **told) == (0, "")
        code, said = await asyncio.to_thread(check, **told)
        assert code == 1
        assert "/readyz answers 503" in said
        probes.states.loaded()
        assert await asyncio.to_thread(check, **told) == (0, "")


async def test_a_service_that_asks_for_certificates_is_shown_its_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("serving")
    async with serving(TlsFiles(pair.certificate, pair.key, authority.pair.certificate)) as probes:
        probes.states.loaded()
        told = {"GRAFT_SERVING_HTTP_PORT": probes.port, "GRAFT_SERVING_CACHE_DIR": "/x"}
        assert (await asyncio.to_thread(check, **told))[0] == 1  # plain HTTP
        told |= {"GRAFT_SERVING_TLS_CERTIFICATE": pair.certificate, "GRAFT_SERVING_TLS_KEY": pair.key}
        assert await asyncio.to_thread(check, **told) == (0, "")


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
