"""The home folder keeps its secret and finds what runs."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from graftwork.local.errors import AlreadyRunning
from graftwork.local.fleet import Fleet, FleetSettings, environment, last_words, running_pid
from graftwork.local.home import Home, ServiceName


def test_the_operator_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    assert home.operator_key() is None
    home.prepare()
    key = home.operator_key()
    home.prepare()
    assert key is not None
    assert key.startswith("gwop_")
    assert home.operator_key() == key
    assert stat.S_IMODE(home.operator_key_file.stat().st_mode) == 0o600


def test_a_home_that_is_up_is_refused_and_names_its_process(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    home.prepare()
    with (home.run / "up.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        assert running_pid(home) == os.getpid()
        with pytest.raises(AlreadyRunning, match="graft down"):
            Fleet(home, FleetSettings(), lambda _: None).run()
    assert running_pid(home) is None


def test_all_state_lies_under_the_home(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    made = environment(home, FleetSettings())
    for name in ("GRAFT_OPERATOR_KEY_FILE", "GRAFT_TRAINER_STATE_DIR", "GRAFT_SERVING_CACHE_DIR"):
        assert Path(made[name]).is_relative_to(home.root)
    assert made["GRAFT_STORE_URL"] == f"file://{home.root}/store"


def test_an_address_is_absent_until_the_service_wrote_it(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    home.prepare()
    assert home.address(ServiceName.TRAINER) is None
    home.address_file(ServiceName.TRAINER).write_text("127.0.0.1:5\n")
    assert home.address(ServiceName.TRAINER) == "127.0.0.1:5"


def test_up_waits_for_the_services_of_a_killed_run(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    home.prepare()
    lock_file = home.lock_file(ServiceName.SERVING)
    lock_file.parent.mkdir(parents=True)
    said: list[str] = []
    fleet = Fleet(home, FleetSettings(), said.append)

    def report(line: str) -> None:
        said.append(line)
        fleet.stop()

    fleet.report = report
    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fleet.run()
    assert said == ["the services of an earlier `graft up` are still ending; waiting for them"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"cause": "no config.json", "event": "cannot serve"}', "no config.json"),
        ('{"reason": "no store", "event": "cannot_serve"}', "no store"),
        ('{"event": "stopped"}', "stopped"),
        ("OSError: disk full", "OSError: disk full"),
        ("17", "17"),
    ],
)
def test_the_last_words_of_a_log_are_for_people(line: str, words: str, tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    log.write_text(f"earlier\n{line}\n\n")
    assert last_words(log) == words


def test_last_words_of_no_log_are_none(tmp_path: Path) -> None:
    assert last_words(tmp_path / "none.log") == ""
