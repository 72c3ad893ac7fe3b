"""`graft config`: values with where they come from, secrets never, problems by their place; docs/configuration.md is up to date."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from graftwork.cli.configured import defaults
from graftwork.config import ConfigFile
from graftwork.config.reference import example, reference
from graftwork.local.environment import FleetSettings, environment, lock_file
from graftwork.local.home import Home, ServiceName

ROOT = Path(__file__).parents[3]


def graft(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GRAFT_", "OTEL_"))}
    return subprocess.run(
        [sys.executable, "-m", "graftwork.cli.main", "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        env=clean | environment,
        timeout=60,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def test_docs_say_what_the_settings_say() -> None:
    told = reference(defaults())
    assert (ROOT / "docs" / "configuration.md").read_text() == told, (
        "run `graft config reference > docs/configuration.md`"
    )


def test_the_example_is_a_file_that_the_services_take_as_it_is_and_line_by_line(home: Path) -> None:
    text = example(defaults())
    (home / "graft.toml").write_text(text)
    assert graft(home, "config", "check").returncode == 0
    lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("[") or " = " in line]
    keys = {section: set(values) for section, values in tomllib.loads("\n".join(lines)).items()}
    assert {f"{one['section']}.{one['key']}" for one in defaults()} == {
        f"{section}.{key}" for section, found in keys.items() for key in found
    }


def test_show_says_where_each_value_comes_from_and_no_secret(home: Path) -> None:
    (home / "graft.toml").write_text(
        '[trainer]\ndatabase_url = "postgresql://graft:hunter2@db/graft"\nmax_rank = 32\n'
        '[serving]\nmax_loras = 6\nhttp_port = 0\notlp_endpoint = "http://me:hunter2@c:4318"\n'
    )
    words = ("--set", "serving.max_num_seqs=9", "--json")
    done = graft(home, "config", "show", *words, GRAFT_TRAINER_MAX_RUNNING_JOBS="2", GRAFT_API_KEY="gw_a_hunter2")
    assert done.returncode == 0, done.stderr
    found = {
        f"{one['section']}.{one['key']}": (one["value"], one["source"]) for one in json.loads(done.stdout)["settings"]
    }
    assert found["serving.max_loras"] == ("6", "graft.toml [serving] max_loras")
    assert found["serving.http_port"] == ("0", "graft.toml [serving] http_port")
    assert found["serving.max_num_seqs"] == ("9", "--set serving.max_num_seqs")
    assert found["trainer.max_running_jobs"] == ("2", "GRAFT_TRAINER_MAX_RUNNING_JOBS")
    assert found["trainer.max_attempts"] == ("3", "default")
    assert found["trainer.state_dir"] == (str(home / "trainer"), "graft up")
    assert found["trainer.database_url"] == ("(set, not shown)", "graft.toml [trainer] database_url")
    assert found["serving.otlp_endpoint"][0] == "http://***@c:4318"
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[serving]\nmax_lora = 6\n",
            "graft.toml [serving] max_lora: there is no such setting; did you mean max_loras?",
        ),
        ("[trainer]\nport = 7001\n[serving]\nport = 7001\n", "[serving] port is 7001, and so is [trainer] port"),
        ("[serving]\ntls_certificate = 'gone.pem'\n", "[serving] tls_certificate: there is no"),
        ("[trainer]\ntls_key = 'graft.toml'\n", "[trainer] tls_key without tls_certificate: TLS needs both"),
    ],
)
def test_check_and_up_refuse_what_cannot_work_before_anything_starts(text: str, said: str, home: Path) -> None:
    (home / "graft.toml").write_text(text)
    checked = graft(home, "config", "check")
    assert checked.returncode == 1
    assert said in checked.stdout.replace("\n", " ")
    up = graft(home, "up")
    assert up.returncode == 1
    assert up.stderr.startswith("graft: wrong settings: ")
    assert said in up.stderr
    assert not (home / "run").exists()


def test_check_doubts_ranks_that_the_fleet_refuses(home: Path) -> None:
    (home / "graft.toml").write_text("[serving]\nmax_lora_rank = 16\n")
    done = graft(home, "config", "check", "--json")
    assert done.returncode == 0
    assert "max_rank 64 is above [serving] max_lora_rank 16" in json.loads(done.stdout)["doubts"][0]


def test_a_config_flag_goes_before_the_variable_and_before_the_homes_file(home: Path, tmp_path: Path) -> None:
    (home / "graft.toml").write_text("[serving]\nmax_loras = 1\n")
    for number in (2, 3):
        (tmp_path / f"{number}.toml").write_text(f"[serving]\nmax_loras = {number}\n")

    def loras(*arguments: str, **environment: str) -> str:
        told = json.loads(graft(home, "config", "show", "--json", *arguments, **environment).stdout)
        return next(str(one["value"]) for one in told["settings"] if one["key"] == "max_loras")

    assert loras() == "1"
    assert loras(GRAFT_CONFIG=str(tmp_path / "2.toml")) == "2"
    assert loras("--config", str(tmp_path / "3.toml"), GRAFT_CONFIG=str(tmp_path / "2.toml")) == "3"


def test_a_file_that_is_not_there_is_said_in_one_line(home: Path) -> None:
    done = graft(home, "--config", "/nowhere/graft.toml", "status")
    assert done.returncode == 1
    assert (
        done.stderr
        == "graft: wrong settings: there is no file /nowhere/graft.toml; name another with --config or GRAFT_CONFIG\n"
    )


def test_folders_that_the_file_names_are_not_replaced_by_the_homes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GRAFT_SERVING_CACHE_DIR", "GRAFT_TRAINER_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    home = Home.open(tmp_path / "home")
    (tmp_path / "graft.toml").write_text("[serving]\ncache_dir = 'fast'\n")
    settings = FleetSettings(config=ConfigFile.read(tmp_path / "graft.toml"))
    assert "GRAFT_SERVING_CACHE_DIR" not in environment(home, settings)
    assert lock_file(home, settings, ServiceName.SERVING) == tmp_path / "fast" / "lock"
    assert lock_file(home, settings, ServiceName.TRAINER) == home.lock_file(ServiceName.TRAINER)
