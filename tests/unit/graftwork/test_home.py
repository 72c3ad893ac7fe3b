"""The home folder keeps its secret and finds what runs."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from graftwork.local.errors import AlreadyRunning
from graftwork.local.fleet import Fleet, FleetSettings, environment, running_pid
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
