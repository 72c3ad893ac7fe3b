"""deploy/compose.yaml, resolved by Docker Compose itself, with keys that deploy/compose/init.sh has made in a clean folder.

Proves: it resolves, alone and with the GPU file; services take the settings that it gives; who talks to whom shares a network
and finds a port; nothing but loopback is published; keys are made once, fit each other, and are never in the file; what
Prometheus scrapes and Grafana reads is there.
"""

import asyncio
import configparser
import ipaddress
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapter_store import open_store
from adapter_store.api.keyring import Keyring
from graftwork.operator_keys import first_plain
from graftwork.rpc.auth import Role
from tests.deploy.places import ROOT, resolved
from tests.deploy.service_settings import parsed

OURS = ("serving", "trainer", "console", "bucket")


def share_a_network(project: dict[str, Any], one: str, other: str) -> bool:
    services = project["services"]
    return bool(services[one]["networks"].keys() & services[other]["networks"].keys())


def host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


@pytest.mark.parametrize("service", ["serving", "trainer", "console"])
def test_services_take_their_settings(project: dict[str, Any], service: str) -> None:
    told = project["services"][service]
    settings = parsed(service, told["environment"])
    assert told["command"] == [service]
    assert str(settings.host) == "0.0.0.0"
    published = {port["target"] for port in told["ports"]}
    assert published <= {settings.port, getattr(settings, "http_port", settings.port)}
    for name in ("cache_dir", "state_dir"):
        if folder := getattr(settings, name, None):
            assert any(volume["target"] in map(str, folder.parents) for volume in told["volumes"]), name


def test_who_talks_to_whom_can(project: dict[str, Any]) -> None:
    services = project["services"]
    ports = {
        ("serving", 50052), ("serving", 8000), ("trainer", 50051), ("trainer", 9464), ("s3", 8333), ("prometheus", 9090),
    }  # fmt: skip
    calls = [
        ("trainer", services["trainer"]["environment"]["GRAFT_TRAINER_PROBE_ADDRESS"]),
        ("console", services["console"]["environment"]["GRAFT_CONSOLE_TRAINER"]),
        ("console", services["console"]["environment"]["GRAFT_CONSOLE_SERVING"]),
        ("serving", services["serving"]["environment"]["GRAFT_TRAINER"]),
    ]
    for job in yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]:
        calls += [("prometheus", target) for entry in job["static_configs"] for target in entry["targets"]]
    sources = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text())
    calls += [("grafana", source["url"].removeprefix("http://")) for source in sources["datasources"]]
    calls += [(name, "s3:8333") for name in ("serving", "trainer", "bucket")]
    for caller, address in calls:
        host, port = host_port(address)
        assert (host, port) in ports, f"{caller} calls {address}, where nobody listens"
        assert share_a_network(project, caller, host), f"{caller} and {host} share no network"
    assert share_a_network(project, "trainer", "postgres")
    assert not share_a_network(project, "serving", "postgres")
    assert not share_a_network(project, "console", "s3")
    assert "@s3:8333" not in services["trainer"]["environment"]["GRAFT_STORE_URL"]
    assert "endpoint=http://s3:8333" in services["trainer"]["environment"]["GRAFT_STORE_URL"]


def test_only_loopback_is_published(project: dict[str, Any]) -> None:
    ports = [port for service in project["services"].values() for port in service.get("ports", [])]
    assert ports
    for port in ports:
        assert ipaddress.ip_address(port["host_ip"]).is_loopback, port


@pytest.mark.parametrize("service", OURS)
def test_ours_run_without_privileges(project: dict[str, Any], service: str) -> None:
    told = project["services"][service]
    assert told["read_only"] is True
    assert told["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in told["security_opt"]
    assert "user" not in told  # the image's own, which is not root


def test_every_image_is_pinned(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert any(letter.isdigit() for letter in tag), f"{name} runs {service['image']}"


def test_keys_fit_each_other(project: dict[str, Any], checkout: Path) -> None:
    files = {name: Path(secret["file"]) for name, secret in project["secrets"].items()}
    for file in files.values():
        assert file.is_relative_to(checkout)
        assert file.stat().st_mode & 0o777 == 0o444  # the containers' users read it; the folder keeps others out
        assert file.parent.stat().st_mode & 0o777 == 0o700
    ring = Keyring(open_store(f"file://{checkout}/store"), files["operator_key"])
    operator = first_plain(files["operator_key"].read_text())
    metrics = files["metrics_key"].read_text()
    assert operator is not None
    assert metrics not in files["operator_key"].read_text()
    asyncio.run(ring.authenticate(operator)).require_operator()
    viewer = asyncio.run(ring.authenticate(metrics))
    viewer.require_overseer()
    assert (viewer.role, viewer.name) == (Role.VIEWER, "prometheus")
    ini = configparser.ConfigParser()
    ini.read(files["s3_credentials"])
    identity = json.loads(files["s3_identities"].read_text())["identities"][0]["credentials"][0]
    assert identity == {
        "accessKey": ini["default"]["aws_access_key_id"],
        "secretKey": ini["default"]["aws_secret_access_key"],
    }
    password = files["postgres_password"].read_text()
    assert f":{password}@postgres/" in project["services"]["trainer"]["environment"]["GRAFT_TRAINER_DATABASE_URL"]


def test_init_keeps_what_is_there(checkout: Path) -> None:
    secrets = checkout / "deploy/compose/secrets"
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    subprocess.run([checkout / "deploy/compose/init.sh"], check=True, capture_output=True)
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before
    assert len(before) == 6


def test_git_would_not_take_the_keys() -> None:
    names = ["deploy/.env", "deploy/compose/secrets/operator.key", "deploy/compose/settings.env"]
    done = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == names


def test_without_keys_it_says_what_to_do(checkers: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [checkers / "docker-compose", "-f", ROOT / "deploy/compose.yaml", "--env-file", "/dev/null", "config", "-q"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "deploy/compose/init.sh" in done.stderr


def test_gpus_are_reserved(checkers: Path, checkout: Path) -> None:
    project = resolved(checkers, checkout, "compose.yaml", "compose.gpu.yaml")
    for name, gpu in (("serving", "0"), ("trainer", "1")):
        service = project["services"][name]
        device = service["deploy"]["resources"]["reservations"]["devices"][0]
        assert (device["driver"], device["device_ids"]) == ("nvidia", [gpu])
        assert service["build"]["target"] == "cuda"
        parsed(name, service["environment"])


def test_mounted_files_are_there(project: dict[str, Any], checkout: Path) -> None:
    mounted = [
        Path(volume["source"])
        for name in ("prometheus", "grafana")
        for volume in project["services"][name]["volumes"]
        if volume["type"] == "bind"
    ]
    assert len(mounted) == 3
    for source in mounted:
        assert source.is_dir()
        assert any(source.rglob("*.*"))
