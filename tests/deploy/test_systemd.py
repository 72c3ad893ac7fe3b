"""The systemd units, installed into a folder by their own script and looked at by systemd itself.

Proves: systemd takes every line; each unit's module is there; services take the shipped settings; installing again keeps what
an operator has changed; keys are not for everybody.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import without
from tests.deploy.places import ROOT
from tests.deploy.service_settings import parsed

UNITS = sorted(
    path.name for path in (ROOT / "deploy/systemd").iterdir() if path.suffix in {".service", ".timer", ".target"}
)
SERVICES = ("serving", "trainer", "console")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine's folders with the units installed, and systemd's own targets beside them."""
    for program in ("systemd-analyze", "systemd-sysusers"):
        if shutil.which(program) is None:
            without(f"{program} is not installed (Debian: systemd)")
    folder = tmp_path_factory.mktemp("root")
    subprocess.run([ROOT / "deploy/systemd/install.sh", folder], check=True, capture_output=True)
    shutil.copytree(
        "/lib/systemd/system", folder / "usr/lib/systemd/system", symlinks=True, ignore_dangling_symlinks=True
    )
    for name in ("python", "graft"):
        program = folder / "opt/graftwork/.venv/bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    return folder


def verify(root: Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={root}", *UNITS], capture_output=True, text=True, check=False
    )
    return done.stderr + ("" if done.returncode == 0 else f"exit {done.returncode}")


def test_systemd_takes_every_line(root: Path) -> None:
    said = [line for line in verify(root).splitlines() if "graftwork" in line or line.startswith("exit")]
    assert said == []


def test_systemd_would_tell_of_a_wrong_line(root: Path) -> None:
    unit = root / "etc/systemd/system/graftwork-serving.service"
    text = unit.read_text()
    unit.write_text(text.replace("Restart=always", "Restart=allways"))
    try:
        assert "allways" in verify(root)
    finally:
        unit.write_text(text)


def settings_of(unit: str) -> dict[str, str]:
    """What a unit's environment is, from its own lines and its shipped files; later ones win."""
    text = (ROOT / "deploy/systemd" / f"graftwork-{unit}.service").read_text()
    lines = re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
    found = dict(pair.split("=", 1) for line in lines for pair in line.split())
    for name in re.findall(r"^EnvironmentFile=/etc/graftwork/(.*)$", text, re.MULTILINE):
        shipped = (ROOT / "deploy/systemd" / name).read_text().splitlines()
        found |= dict(line.split("=", 1) for line in shipped if line and not line.startswith("#"))
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_services_take_the_shipped_settings(service: str) -> None:
    settings = parsed(service, settings_of(service))
    assert settings.port > 0
    assert str(settings.host) == "127.0.0.1"  # another address is the operator's decision


def test_services_find_each_other() -> None:
    serving, trainer, console = (parsed(name, settings_of(name)) for name in SERVICES)
    assert trainer.probe_address == console.serving == f"127.0.0.1:{serving.port}"
    assert console.trainer == f"127.0.0.1:{trainer.port}"


@pytest.mark.parametrize("service", ["serving", "trainer"])
def test_state_is_where_the_unit_may_write(service: str) -> None:
    text = (ROOT / f"deploy/systemd/graftwork-{service}.service").read_text()
    settings = parsed(service, settings_of(service))
    folder = settings.cache_dir if service == "serving" else settings.state_dir
    assert "ProtectSystem=strict" in text
    kinds = {"/var/cache/graftwork": "CacheDirectory=graftwork", "/var/lib/graftwork": "StateDirectory=graftwork"}
    assert kinds[str(folder.parent)] in text


def test_a_stop_outlasts_the_drain() -> None:
    text = (ROOT / "deploy/systemd/graftwork-serving.service").read_text()
    stop = int(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[0])
    assert stop > parsed("serving", settings_of("serving")).drain_seconds


def test_keys_and_settings_are_not_for_everybody(root: Path) -> None:
    folder = root / "etc/graftwork"
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (folder / "operator.key").stat().st_mode & 0o777 == 0o640
    for file in folder.glob("*.env"):
        assert file.stat().st_mode & 0o777 == 0o600
    group = next(line for line in (root / "etc/group").read_text().splitlines() if line.startswith("graftwork:"))
    assert (folder / "operator.key").stat().st_gid == int(group.split(":")[2])


def test_installing_again_keeps_settings_and_key(root: Path) -> None:
    folder = root / "etc/graftwork"
    (folder / "serving.env").write_text("GRAFT_SERVING_PORT=1234\n")
    before = {file.name: file.read_text() for file in folder.iterdir()}
    subprocess.run([ROOT / "deploy/systemd/install.sh", root], check=True, capture_output=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == before
