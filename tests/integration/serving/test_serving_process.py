"""The process: comes up with an honest health, goes down clean, and leaves no engine behind whatever kills it."""

import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2

from graftwork.scratch import FOLDER
from graftwork.v1 import serving_pb2
from tests.integration.serving.serving_world import READY_SECONDS, Service, World, wait_until

pytestmark = pytest.mark.slow


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def engine_processes(service: Service) -> list[psutil.Process]:
    return [child for child in service.children() if "resource_tracker" not in " ".join(child.cmdline())]


def temporary_files(service: Service, temporary: Path) -> set[Path]:
    """All that the service and its children have among temporary files, sockets too."""
    places = (temporary, service.cache / FOLDER)
    return {path for place in places for path in place.rglob("*") if not path.is_dir()}


@pytest.fixture
def home() -> Iterator[Path]:
    """With a path in which the service's own temporary folder has room for sockets; pytest's are too long."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_life_of_a_service(
    run_service: Callable[..., Service], home: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading: NOT_SERVING and UNAVAILABLE. kill -9: no engine left, and the next start adopts the verified disk cache and
    removes what vLLM had no time to. SIGTERM: the request in flight ends whole, exit 0, no temporary file."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    first = run_service(home).bound()
    assert first.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.RpcError) as loading:
        first.generate("acme", "", "hello")
    assert loading.value.code() == grpc.StatusCode.UNAVAILABLE
    first.ready()
    answers = {tenant: first.generate(tenant, "task", "abc").text for tenant in ("acme", "globex")}
    engine = engine_processes(first)
    assert engine
    first.signal(signal.SIGKILL)
    wait_until("the engine died with its service", lambda: gone(engine), 5)
    left = temporary_files(first, temporary)
    assert any("vllm_dist_" in path.name for path in left)
    assert any(path.is_socket() for path in left)

    # What a crash, a bad disk or a stranger may have left; only acme's version is sound.
    cache = first.cache / "adapters"
    (cache / "acme" / "task@x.partial-1").mkdir()
    damaged = cache / "globex" / f"task@{world.versions['globex'].version}" / "adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    second = run_service(home).ready()
    assert not left & temporary_files(second, temporary)
    assert list(second.residents()) == [f"acme/task@{world.versions['acme'].version}"]
    assert not (cache / "acme" / "task@x.partial-1").exists()
    again = second.generate("acme", "task", "abc")
    assert (again.started.tier, again.text) == (serving_pb2.TIER_DISK, answers["acme"])
    assert second.generate("globex", "task", "abc").text == answers["globex"]

    engine = engine_processes(second)
    stream = second.start_generate("acme", "task", "x" * 150, max_tokens=300)
    next(stream)
    second.process.send_signal(signal.SIGTERM)
    parts = list(stream)
    assert parts[-1].WhichOneof("part") == "finished"
    assert second.process.wait(60) == 0, second.log()
    assert gone(engine)
    assert not temporary_files(second, temporary)


@pytest.mark.thorough
def test_killed_while_loading_leaves_nothing(run_service: Callable[..., Service]) -> None:
    """The tie to the parent is made before the child's first import, so there is no moment without it."""
    service = run_service()
    engine = wait_until("the engine process exists", lambda: engine_processes(service), READY_SECONDS)
    service.signal(signal.SIGKILL)
    wait_until("the engine died with its service", lambda: gone(engine), 5)


@pytest.mark.thorough
def test_sigterm_while_loading_is_a_clean_stop(run_service: Callable[..., Service]) -> None:
    service = run_service().bound()
    engine = wait_until("the engine process exists", lambda: engine_processes(service), READY_SECONDS)
    assert service.signal(signal.SIGTERM) == 0, service.log()
    assert gone(engine)
