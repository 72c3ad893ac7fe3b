"""The compose file's own services, run with its commands and settings against a real S3 server and a real PostgreSQL.

Proves: the bucket's maker makes it, once; the trainer starts on S3 and PostgreSQL, is healthy, and ends by itself when it is
told to; with serving beside it, an adapter is trained, published to S3, served to its tenant, and not to another.
"""

import json
import re
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from minio import Minio

from tests.contract.postgres import Postgres
from tests.contract.rgw import Rgw
from tests.deploy.compose_processes import ComposeProcesses
from tests.deploy.places import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.s3]


@pytest.fixture
def stack(project: dict[str, Any], rgw: Rgw, postgres: Postgres, tmp_path: Path) -> ComposeProcesses:
    """The compose file with this test's own servers; its bucket is emptied of an earlier test's objects first."""
    credentials = tmp_path / "s3-credentials.ini"
    credentials.write_text(
        f"[default]\naws_access_key_id = {rgw.access_key}\naws_secret_access_key = {rgw.secret_key}\n"
    )
    database = project["services"]["trainer"]["environment"]["GRAFT_TRAINER_DATABASE_URL"]
    servers = {
        "s3:8333": rgw.endpoint.removeprefix("http://"),
        database: postgres.database(),
        "/run/secrets/s3_credentials": str(credentials),
    }
    made = ComposeProcesses(project, tmp_path, servers)
    client = bucket_client(rgw)
    if client.bucket_exists("graftwork"):
        for found in client.list_objects("graftwork", recursive=True):
            client.remove_object("graftwork", found.object_name)
        client.remove_bucket("graftwork")
    return made


def bucket_client(rgw: Rgw) -> Minio:
    return Minio(rgw.endpoint.removeprefix("http://"), rgw.access_key, rgw.secret_key, secure=False)


def until_healthy(stack: ComposeProcesses, service: str, process: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    said = ""
    while time.monotonic() < deadline:
        assert process.poll() is None, stack.log(service)
        code, said = stack.health(service)
        if code == 0:
            return
    pytest.fail(f"{service} is not healthy: {said}\n{stack.log(service)}")


def operator_key(project: dict[str, Any]) -> str:
    return Path(project["secrets"]["operator_key"]["file"]).read_text().split()[0]


def test_the_trainer_runs_on_s3_and_postgresql(stack: ComposeProcesses, project: dict[str, Any], rgw: Rgw) -> None:
    for _ in range(2):
        made = stack.run_once("bucket")
        assert made.returncode == 0, made.stderr
    assert bucket_client(rgw).bucket_exists("graftwork")
    with stack.running("trainer") as trainer:
        until_healthy(stack, "trainer", trainer, 120)
        done = stack.graft("tenant", "create", "acme", key=operator_key(project))
        assert done.returncode == 0, done.stderr
        keys = [found.object_name for found in bucket_client(rgw).list_objects("graftwork", recursive=True)]
        assert any(key.startswith("main/v1/tenants/acme/") for key in keys)
        with psycopg.connect(stack.environment("trainer")["GRAFT_TRAINER_DATABASE_URL"]) as database:
            tables = {row[0] for row in database.execute("select tablename from pg_tables where schemaname = 'public'")}
        assert "jobs" in tables
    assert trainer.returncode == 0, stack.log("trainer")
    assert stack.health("trainer")[0] == 1


def test_the_console_runs_beside_them(stack: ComposeProcesses) -> None:
    """Also while no service is up yet: compose starts it with them."""
    with stack.running("console") as console:
        until_healthy(stack, "console", console, 60)
    assert console.returncode == 0, stack.log("console")


@pytest.mark.thorough
def test_the_whole_stack_trains_and_serves(stack: ComposeProcesses, project: dict[str, Any]) -> None:
    """As docs/deployment.md says, but for the containers."""
    key = operator_key(project)
    rows = ROOT / "graftwork/demo/data/acme-train.jsonl"
    held_out = json.loads((ROOT / "graftwork/demo/data/acme-heldout.jsonl").read_text().splitlines()[0])
    assert stack.run_once("bucket").returncode == 0
    with stack.running("trainer") as trainer, stack.running("serving") as serving:
        until_healthy(stack, "trainer", trainer, 120)
        tenants = {}
        for name in ("acme", "bloom"):
            made = stack.graft("--json", "tenant", "create", name, key=key)
            assert made.returncode == 0, made.stderr
            tenants[name] = json.loads(made.stdout)["api_key"]
        until_healthy(stack, "serving", serving, 300)
        status = stack.graft("status", "--wait", "60", key=key)
        assert status.returncode == 0, status.stdout + status.stderr
        trained = stack.graft("--json", "train", str(rows), "-a", "ticket", "--max-steps", "100", key=tenants["acme"])
        assert trained.returncode == 0, f"{trained.stderr}\n{stack.log('trainer')}"
        assert json.loads(trained.stdout)["probe_outcome"] == "PROBE_OUTCOME_PASSED"
        asked = ("--json", "generate", held_out["instruction"], "--input", held_out["input"], "-a", "ticket")
        answered = stack.graft(*asked, key=tenants["acme"])
        assert answered.returncode == 0, answered.stderr
        answer = json.loads(answered.stdout)
        assert answer["route"] == "swapped"
        assert re.fullmatch(r"[0-9a-f]{64}", answer["version"])
        foreign = stack.graft(*asked, key=tenants["bloom"])
        assert foreign.returncode == 1
    assert (trainer.returncode, serving.returncode) == (0, 0)
