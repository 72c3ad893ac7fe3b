"""The image, built from its Dockerfile by buildah and run in a chroot: no daemon, no registry.

The base is Debian 12 from Debian's own archive (debootstrap), which is what debian:bookworm-slim is made of. Layers are kept in
.graft-image, so that a run that was cut short goes on where it stopped. Proves: each step of the Dockerfile works from a clean
folder; what it makes runs as its user, without root, compilers or test tools, and trains, publishes and serves.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import without
from tests.deploy.places import ROOT

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(3600)]
STORAGE = ROOT / ".graft-image"
BASE, IMAGE = "localhost/debian:bookworm-slim", "localhost/graftwork:test"
PRIVATELY = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""buildah's overlays are mounted for itself alone, and its processes end with it: nothing stays of a run that is killed."""
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")


def buildah(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [*PRIVATELY, "buildah", *map(str, words)]
    done = subprocess.run(
        command,
        env=os.environ | {"CONTAINERS_STORAGE_CONF": str(STORAGE / "storage.conf")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{(done.stdout + done.stderr)[-3000:]}"
    return done


def machines_own_pip() -> list[str]:
    """Lets the steps reach the package index as this machine does; elsewhere pip needs no help."""
    lines = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=True).stdout.splitlines()
    settings: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition("=")
        key = name.partition(".")[2].lstrip(".")
        if key in {"index-url", "find-links"}:
            settings[key] = value.strip("'")
    (STORAGE / "pip-cache").mkdir(exist_ok=True)
    settings["cache-dir"] = "/pip-cache"
    file = STORAGE / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    folders = [Path(word.removeprefix("file://")) for value in settings.values() for word in value.split()]
    mounts = {folder for folder in folders if folder.is_absolute() and folder.is_dir()} | {Path("/etc/ssl/certs")}
    volumes = [f"{folder}:{folder}:ro" for folder in sorted(mounts)]
    volumes += [f"{file}:/etc/pip.conf:ro", f"{STORAGE / 'pip-cache'}:/pip-cache"]
    return [word for volume in volumes for word in ("-v", volume)]


@pytest.fixture(scope="module")
def image() -> str:
    """The CPU image's name, built."""
    if os.geteuid() or shutil.which("buildah") is None or shutil.which("debootstrap") is None:
        without("the image needs root, buildah and debootstrap (Debian: buildah debootstrap)")
    STORAGE.mkdir(exist_ok=True)
    (STORAGE / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\nrunroot = "{STORAGE}/run"\ngraphroot = "{STORAGE}/images"\n'
    )
    if buildah("inspect", "--type", "image", BASE, check=False).returncode:
        root = STORAGE / "root"
        shutil.rmtree(root, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(root), MIRROR]
        subprocess.run(command, check=True, capture_output=True)
        container = buildah("from", "scratch").stdout.strip()
        buildah("copy", "-q", container, root, "/")
        buildah("commit", "-q", "--rm", container, BASE)
    buildah(
        "bud", "--isolation", "chroot", "--format", "docker", "--layers", "--build-arg", f"BASE={BASE}",
        *machines_own_pip(), "--target", "cpu", "-t", IMAGE, "-f", ROOT / "deploy/docker/Dockerfile", ROOT,
    )  # fmt: skip
    return IMAGE


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[str]:
    name = buildah("from", image).stdout.strip()
    yield name
    buildah("rm", name)


def inside(container: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the entry point with these words, as the image's user."""
    return buildah("run", "--isolation", "chroot", container, "--", "graft-entrypoint", *words, check=False)


def test_it_says_what_it_is(image: str) -> None:
    config = json.loads(buildah("inspect", "--type", "image", image).stdout)["Docker"]["config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["/usr/bin/tini", "--", "graft-entrypoint"]
    assert config["Healthcheck"]["Test"] == ["CMD", "graft-healthcheck"]


def test_it_runs_as_its_user_with_what_it_needs_and_no_more(container: str) -> None:
    assert inside(container, "id", "-u").stdout.strip() == "10001"
    assert inside(container, "graft", "--help").returncode == 0
    assert inside(container, "tini", "--version").returncode == 0
    for module in (
        "serving_service.settings",
        "trainer_service.settings",
        "graftwork.console.app",
        "vllm",
        "peft",
        "psycopg",
    ):
        done = inside(container, "python", "-c", f"import {module}")
        assert done.returncode == 0, f"{module}: {done.stderr[-1000:]}"
    for module in ("pytest", "mypy", "playwright", "tests"):
        assert inside(container, "python", "-c", f"import {module}").returncode == 1, module
    for program in ("gcc", "git", "curl"):
        assert inside(container, "sh", "-c", f"command -v {program}").returncode != 0, program
    refused = inside(container, "sh", "-c", "touch /opt/graftwork/venv/x")
    assert refused.returncode != 0
    assert inside(container, "graft-healthcheck").returncode != 0  # nothing runs


def test_it_trains_publishes_and_serves(container: str) -> None:
    """The demo's own claims, in the image: right answers from each tenant's adapter, none from another's."""
    done = inside(
        container, "graft", "demo", "--home", "/var/lib/graftwork/demo", "--report", "/var/lib/graftwork/report.json"
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "0 answers from a wrong tenant" in done.stdout + done.stderr
