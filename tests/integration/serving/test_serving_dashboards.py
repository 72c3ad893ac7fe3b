"""The shipped dashboards and alerts, run by a real Prometheus with the shipped configuration against both live services.

Proves: each query is PromQL; each metric in it is one that a service exports; where that metric has been counted the query has
an answer, with the labels that its legend names; each alert's rule is evaluated without an error; the dashboards' files are
what their source makes.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from graftwork.v1 import trainer_pb2
from tests.conftest import without
from tests.integration.serving.serving_world import Service, wait_until
from tests.integration.trainer.trainer_process import OPERATOR_KEY, Caller, TrainerProcess

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parents[3] / "deploy"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json"))}
RULES = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"]
OWN = {"up"}
"""Made by Prometheus itself."""


def queries() -> Iterator[tuple[str, str, str]]:
    """Title, PromQL and legend of each line of each panel, with Grafana's variables as they stand at first."""
    for name, board in BOARDS.items():
        values = {variable["name"]: variable["current"]["value"] for variable in board["templating"]["list"][1:]}
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"].replace("$__rate_interval", "30s")
                for variable, value in values.items():
                    query = query.replace(f"${variable}", ".*" if value == "$__all" else value)
                yield f"{name}: {panel['title']}", query, target["legendFormat"]


def metrics_of(query: str) -> set[str]:
    """Families that a query reads."""
    bare = re.sub(r'"[^"]*"', "", query)
    names = set(re.findall(r"\b((?:graft|process)_\w+|up)\b", bare))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def free_port() -> int:
    """Below the range of outgoing connections: Prometheus cannot bind port 0 and tell."""
    while True:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Prometheus:
    """A server with the shipped configuration, whose targets and key are exchanged for the test's."""

    def __init__(self, home: Path, targets: dict[str, str], key: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        shutil.copy(DEPLOY / "prometheus/alerts.yaml", home)
        (home / "key").write_text(key)
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
            if "authorization" in job:
                job["authorization"]["credentials_file"] = str(home / "key")
        (home / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._log = (home / "log").open("ab")
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={home / 'prometheus.yml'}",
                f"--storage.tsdb.path={home / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def get(self, path: str, **parameters: str) -> Any:
        response = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise httpx.ConnectError("Prometheus listens, and is not ready")
        answer = response.json()
        assert answer["status"] == "success", f"{parameters}: {answer.get('error')}"
        return answer["data"]

    def value(self, query: str) -> list[dict[str, Any]]:
        return list(self.get("query", query=query)["result"])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self._log.close()


@pytest.fixture(scope="module")
def trainer(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainerProcess]:
    """A trainer of its own, with a tenant that asks it."""
    home = tmp_path_factory.mktemp("trainer")
    with TrainerProcess(home, world.backbone, GRAFT_TRAINER_METRICS_PORT=str(free_port())) as trainer:
        trainer.store.tenants.create("acme")
        yield trainer


def metrics_of_trainer(trainer: TrainerProcess) -> str:
    """`host:port` of what it shows, as its log says."""
    lines = (json.loads(line) for line in (trainer.home / "service.log").read_text().splitlines())
    return f"127.0.0.1:{next(line['metrics_port'] for line in lines if 'metrics_port' in line)}"


def ask(trainer: TrainerProcess) -> None:
    request = trainer_pb2.ListJobsRequest(parent="tenants/acme")
    Caller(trainer, OPERATOR_KEY, "acme").call("ListJobs", request)


@pytest.fixture(scope="module")
def prometheus(
    service: Service, trainer: TrainerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Has scraped both services twice, with traffic between."""
    if shutil.which("prometheus") is None:
        without("prometheus is not installed (Debian: prometheus)")
    targets = {
        "graftwork-serving": service.url.removeprefix("http://"),
        "graftwork-trainer": metrics_of_trainer(trainer),
    }
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), targets, service.world.operator_key)

    def scraped() -> bool:
        try:
            up = server.value("up == 1")
        except httpx.TransportError:
            return False
        return {one["metric"]["job"] for one in up} == set(targets)

    try:
        service.generate("acme", "task", "hello", max_tokens=4)
        ask(trainer)
        wait_until("both services are scraped", scraped, 60)
        service.generate("acme", "task", "hello", max_tokens=4)
        with pytest.raises(grpc.RpcError):
            service.generate("acme", "nothing", "hello")
        ask(trainer)
        for rate in ("graft_rejections_total", 'graft_rpc_calls_total{job="graftwork-trainer", method="ListJobs"}'):
            wait_until(f"a rate of {rate}", lambda rate=rate: server.value(f"rate({rate}[30s])"), 60)
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def exported(prometheus: Prometheus, service: Service, trainer: TrainerProcess) -> dict[str, bool]:
    """Each family that a service exports, and whether anything has been counted in it."""
    found: dict[str, bool] = {}
    for url in (f"{service.url}/metrics", f"http://{metrics_of_trainer(trainer)}/metrics"):
        for family in text_string_to_metric_families(httpx.get(url, timeout=30).text):
            name = family.name + ("_total" if family.type == "counter" else "")
            found[name] = found.get(name, False) or bool(family.samples)
    return found


def test_each_panel_shows_what_is_exported(prometheus: Prometheus, exported: dict[str, bool]) -> None:
    asked = list(queries())
    assert len(asked) > 40
    answered = 0
    for title, query, legend in asked:
        names = metrics_of(query)
        assert names, title
        assert names - OWN <= exported.keys(), f"{title}: {sorted(names - OWN - exported.keys())} is not exported"
        result = prometheus.value(query)
        if all(exported[name] for name in names - OWN):
            assert result, f"{title}: {query} has no answer"
        for label in re.findall(r"{{(\w+)}}", legend):
            assert all(label in line["metric"] for line in result), f"{title}: no label {label} in {query}"
        answered += bool(result)
    assert answered > len(asked) // 2


def test_the_images_health_check_finds_the_service_ready(service: Service) -> None:
    port = service.url.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, DEPLOY / "docker/healthcheck.py", "serving"],
        env={"PATH": os.environ["PATH"], "GRAFT_SERVING_HTTP_PORT": port},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_each_alert_is_evaluated_and_quiet(prometheus: Prometheus, exported: dict[str, bool]) -> None:
    shipped = [rule for group in RULES for rule in group["rules"]]
    for rule in shipped:
        names = metrics_of(rule["expr"])
        assert names - OWN <= exported.keys(), f"{rule['alert']}: {sorted(names - OWN - exported.keys())}"

    def evaluated() -> list[dict[str, Any]]:
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        return [] if any(rule["health"] == "unknown" for rule in rules) else rules

    rules = wait_until("the alerts are evaluated", evaluated, 60)
    assert [rule["name"] for rule in rules] == [rule["alert"] for rule in shipped]
    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    assert (
        firing & {"GraftworkServingDown", "GraftworkEngineDead", "GraftworkStoreAway", "GraftworkTrainerDown"} == set()
    )
