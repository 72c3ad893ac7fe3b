"""The command's manners: exit codes, one-line errors, options before and after the command's name."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from graftwork.cli.main import hoist
from graftwork.local.home import Home


def graft(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
    return subprocess.run(
        [sys.executable, "-m", "graftwork.cli.main", *arguments],
        capture_output=True,
        text=True,
        env=clean | environment,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("given", "moved"),
    [
        (["job", "list", "--json"], ["--json", "job", "list"]),
        (["job", "list", "--home", "x", "-t", "a"], ["--home", "x", "job", "list", "-t", "a"]),
        (["generate", "--", "--json"], ["generate", "--", "--json"]),
        (["up", "--home=x"], ["--home=x", "up"]),
        (["up", "--home"], ["--home", "up"]),
    ],
)
def test_global_options_work_after_the_command(given: list[str], moved: list[str]) -> None:
    assert hoist(given) == moved


@pytest.mark.parametrize(
    "arguments", [[], ["nope"], ["train"], ["job", "show"], ["generate", "x", "--max-tokens", "0"]]
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    assert graft(*arguments).returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [["job", "list"], ["adapter", "list", "-t", "a"], ["down"], ["generate", "x"], ["tenant", "create", "a"]],
)
def test_a_missing_service_is_one_line_that_says_what_to_do(arguments: list[str], tmp_path: Path) -> None:
    done = graft("--home", str(tmp_path), *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("graft: ")
    assert len(done.stderr.splitlines()) == 1
    assert "up" in done.stderr


def test_a_service_that_went_away_is_named_by_its_address(tmp_path: Path) -> None:
    with (
        socket.socket() as held
    ):  # bound, not listening: whoever connects is refused, and nobody else can take the port
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        done = graft(
            "--home", str(tmp_path), "job", "show", "tenants/a/jobs/b", GRAFT_TRAINER=address, GRAFT_API_KEY="gw_a_b"
        )
    assert done.returncode == 1
    assert address in done.stderr
    assert "graft up" in done.stderr


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        done = graft("--home", str(tmp_path / "home"), "up", "--trainer-port", str(port))
    assert done.returncode == 1
    assert f"port {port} is taken" in done.stderr
    assert not (tmp_path / "home").exists()


def test_status_says_not_ready_and_exits_1(tmp_path: Path) -> None:
    done = graft("status", "--json", "--home", str(tmp_path))
    assert done.returncode == 1
    assert json.loads(done.stdout)["ready"] is False


def test_backbone_path_is_a_hugging_face_folder() -> None:
    path = Path(graft("backbone", "path").stdout.strip())
    assert (path / "config.json").is_file()
    assert sum(file.stat().st_size for file in path.iterdir()) < 10_000_000


def test_a_prompt_that_is_not_utf8_is_wrong_usage(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "graftwork.cli.main", "--home", str(tmp_path), "generate", "-"],
        input=b"\xff\xfe",
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_second_detached_up_is_refused(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    home.prepare()
    with (home.run / "up.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        done = graft("--home", str(tmp_path), "up", "--detach")
    assert done.returncode == 1
    assert done.stderr.startswith("graft: graft is already up")
    assert not (home.logs / "up.log").exists()
    assert len(done.stderr.splitlines()) == 1
