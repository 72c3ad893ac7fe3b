"""`make audit` looks at everything that the locks pin, and nobody accepts an advisory without a reason or for ever.

The look-up itself needs the network and is not made here.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    made = tmp_path / "deploy"
    (made / "locks").mkdir(parents=True)
    for name in ("audit.sh", "audit-accepted.txt", "locks/cpu.lock", "locks/gpu.lock"):
        shutil.copy(DEPLOY / name, made / name)
    return made


def audit(deploy: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [deploy / "audit.sh", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


@pytest.mark.parametrize("flavour", ["cpu", "gpu"])
def test_every_pinned_package_is_looked_at(deploy: Path, flavour: str) -> None:
    lock = (deploy / f"locks/{flavour}.lock").read_text()
    pinned = set(re.findall(r"^([\w.\-]+==[\w.!+\-]+)", lock, re.MULTILINE))
    pinned |= {f"torch=={found}" for found in re.findall(r"^# torch: ([\d.]+)", lock, re.MULTILINE)}
    listed = audit(deploy, flavour, "list").stdout.split()
    assert set(listed) == pinned
    assert len(pinned) > 100
    assert any(line.startswith("torch==") and "+" not in line for line in listed)


def test_a_part_of_them_can_be_looked_at(deploy: Path) -> None:
    listed = audit(deploy, "cpu", "list", AUDIT_ONLY="grpcio|jinja2").stdout.split()
    assert [line.partition("==")[0] for line in listed] == ["grpcio", "jinja2"]


def test_an_acceptance_has_a_reason_and_a_day(deploy: Path) -> None:
    accepted = deploy / "audit-accepted.txt"
    accepted.write_text("# a comment\n\nGHSA-1 2999-01-01 not reached: we read no XML\n")
    assert audit(deploy, "cpu", "list").returncode == 0
    accepted.write_text("GHSA-1 2999-01-01\n")
    refused = audit(deploy, "cpu", "list")
    assert (refused.returncode, "has no reason" in refused.stderr) == (2, True)
    accepted.write_text("GHSA-1 2020-01-01 was not reached\n")
    assert "look at it again" in audit(deploy, "cpu", "list").stderr


def test_wrong_usage_ends_with_2(deploy: Path) -> None:
    assert audit(deploy, "tpu", "list").returncode == 2
