"""Mistakes of operators, made for real: full disks, taken ports, no GPU, no right to the bucket, a newer version's database."""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from graftwork.backbone import default_path
from graftwork.client import Client
from graftwork.client.errors import RemoteError
from tests.contract.rgw import Rgw
from tests.integration.mistakes.conftest import CLEAN, Command
from tests.integration.trainer.trainer_process import OPERATOR_KEY, TrainerProcess, rows


def refused(module: str, *arguments: str, **environment: str) -> str:
    """Starts a service that must not start; returns what its log's last line says."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, env=CLEAN | environment, timeout=120
    )
    assert done.returncode in (1, 2), (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    entry = json.loads(done.stderr.strip().splitlines()[-1])
    return str(entry.get("cause") or entry.get("reason") or entry["event"])


def settings(tmp_path: Path, **more: str) -> dict[str, str]:
    (tmp_path / "key").write_text(OPERATOR_KEY)
    return {
        "GRAFT_STORE_URL": f"file://{tmp_path / 'store'}",
        "GRAFT_BACKBONE": str(default_path()),
        "GRAFT_OPERATOR_KEY_FILE": str(tmp_path / "key"),
        "GRAFT_TRAINER_STATE_DIR": str(tmp_path / "state"),
    } | more


def fill(file: Path) -> None:
    """Writes until the disk is full to the last page."""
    with file.open("wb", buffering=0) as out, suppress(OSError):
        while True:
            out.write(b"x" * 4096)
    assert shutil.disk_usage(file.parent).free == 0


@pytest.mark.parametrize("full", ["state", "store"])
def test_full_disk(full: str, small_disk: Callable[[str], Path], tmp_path: Path) -> None:
    """Of the trainer's uploads, or of the file store. Nothing is kept, and the same upload works once there is room."""
    disk = small_disk("3m")
    places = (
        {"GRAFT_TRAINER_STATE_DIR": str(disk / "state")}
        if full == "state"
        else {"GRAFT_STORE_URL": f"file://{disk}/store"}
    )
    data = tmp_path / "rows.jsonl"
    data.write_bytes(rows(2000))
    with TrainerProcess(tmp_path / "trainer", default_path(), **places) as trainer:
        command = Command(tmp_path / "home", trainer.address)
        with Client(trainer.address, "127.0.0.1:1", OPERATOR_KEY) as sdk:
            sdk.create_tenant("acme")
            filler = disk / "filler"
            fill(filler)
            said = command.fails("train", str(data), "--adapter", "x", "-t", "acme")
            assert "disk is full" in said
            assert "free space there" in said
            assert str(disk) not in said, "a tenant has no use for the service's paths"
            with pytest.raises(RemoteError, match="disk is full"):
                sdk.upload_dataset("acme", data)
            filler.unlink()
            assert not list(sdk.list_datasets("acme"))
            assert sdk.upload_dataset("acme", data).rows == 2000


@pytest.mark.parametrize("option", ["--trainer-port", "--serving-port", "--http-port", "--console-port"])
def test_port_taken(option: str, tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        said = Command(tmp_path / "home", "").fails("up", option, str(port))
    assert f"port {port} is taken" in said
    assert f"choose another with {option} (0 = any)" in said


@pytest.mark.parametrize("service", ["gRPC", "metrics"])
def test_port_taken_by_a_service_alone(service: str, tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = str(held.getsockname()[1])
        flag = "--port" if service == "gRPC" else "--metrics-port"
        said = refused("trainer_service", flag, port, **settings(tmp_path))
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "set another" in said


def test_no_gpu(tmp_path: Path) -> None:
    if any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/dev/dxg")):
        pytest.skip("this machine has one")
    said = refused("trainer_service", **settings(tmp_path, GRAFT_TRAINER_DEVICE="cuda"))
    assert "GRAFT_TRAINER_DEVICE: is cuda, and no GPU's driver is loaded on this machine; set cpu or auto" in said
    said = Command(tmp_path / "home", "").fails("up", "--set", "trainer.device=cuda")
    assert "--set trainer.device: is cuda, and no GPU's driver is loaded" in said


@pytest.mark.s3
def test_no_permission_on_the_bucket(rgw: Rgw, tmp_path: Path) -> None:
    """A user of the store who was given nothing: the service does not start, and `graft store check` says the same."""
    from minio import Minio

    owner = Minio(rgw.endpoint.removeprefix("http://"), rgw.access_key, rgw.secret_key, secure=False)
    owner.make_bucket("guarded")
    access, secret = rgw.add_user("nobody")
    url = f"s3://guarded/here?endpoint={rgw.endpoint}&region=us-east-1"
    keys = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
    for said in (
        refused("trainer_service", **settings(tmp_path, GRAFT_STORE_URL=url), **keys),
        Command(tmp_path / "home", "").fails("store", "check", "--store", url, **keys),
    ):
        assert "403 AccessDenied" in said
        assert "these credentials may not do that: give them what deploy/s3/policy.json allows" in said
        assert secret not in said
    wrong = refused(
        "trainer_service",
        **settings(tmp_path, GRAFT_STORE_URL=url),
        **keys | {"AWS_SECRET_ACCESS_KEY": "wrong"},
    )
    assert "check bucket, region and credentials" in wrong


def test_version_mismatch_of_the_database(tmp_path: Path) -> None:
    """A newer trainer has brought the schema on; this one must not touch it, and says so without a traceback."""
    given = settings(tmp_path)
    with TrainerProcess(tmp_path / "trainer", default_path(), GRAFT_TRAINER_STATE_DIR=given["GRAFT_TRAINER_STATE_DIR"]):
        pass
    with sqlite3.connect(tmp_path / "state/trainer.sqlite3") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    said = refused("trainer_service", **given)
    assert "the jobs' database is of a newer version of Graftwork than this trainer" in said
    assert "start that version, or restore the database from before the upgrade" in said
