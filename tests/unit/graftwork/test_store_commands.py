"""`graft store` as an operator runs it, on folders: exit codes, tables and JSON, one-line errors, a copy that is killed and repeated."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapter_store import AdapterStore, open_store
from graftwork.local.errors import CareFailed
from graftwork.local.store_care import CareProgress, run_care
from tests.contract.collected import Samples
from tests.processes import running

OLD = datetime(2020, 1, 1, tzinfo=UTC).timestamp()


def graft(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
    command = [sys.executable, "-m", "graftwork.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=clean | environment, timeout=60)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that could not do its work."""
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = filter(None, done.stderr.splitlines())
    return line


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return Samples.make(tmp_path_factory.mktemp("samples"))


@pytest.fixture
def folder(tmp_path: Path, samples: Samples) -> Path:
    """A store in a home's own place, with an alias and an orphan that is old."""
    folder = tmp_path / "home" / "store"
    store = open_store(folder.as_uri())
    store.tenants.create("acme")
    version = samples.publish(store, 0)
    store.aliases.set("acme", "greeter", "prod", version.version, by="tests", reason="because")
    orphan = blobs(folder) / hashlib.sha256(b"orphan").hexdigest()
    orphan.write_bytes(b"orphan")
    os.utime(orphan, (OLD, OLD))
    return folder


def blobs(folder: Path) -> Path:
    return folder / "v1/tenants/acme/blobs/sha256"


def store_of(folder: Path) -> AdapterStore:
    return open_store(folder.as_uri())


def test_gc_says_what_it_would_remove_then_removes_it(folder: Path) -> None:
    home = ("--home", str(folder.parent))
    planned = graft(*home, "store", "gc", "--dry-run")
    assert (planned.returncode, len(list(blobs(folder).iterdir()))) == (0, 4)
    assert "would remove" in planned.stdout
    assert "6 bytes" in planned.stdout
    done = json.loads(graft("--json", *home, "store", "gc").stdout)
    assert done["removed"] == {"blobs": {"objects": 1, "bytes": 6}}
    assert len(list(blobs(folder).iterdir())) == 3
    again = graft(*home, "store", "gc", "--grace", "36h")
    assert "nothing" in again.stdout
    assert "4h or more" in refused(graft(*home, "store", "gc", "--grace", "1h"))
    assert graft(*home, "store", "gc", "--grace", "soon").returncode == 2


def test_check_fails_on_damage_and_names_it(folder: Path) -> None:
    url = ("--store", folder.as_uri())
    sound = graft("store", "check", "--deep", *url)
    assert sound.returncode == 0, sound.stderr
    weights = max(blobs(folder).iterdir(), key=lambda file: file.stat().st_size)
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert graft("store", "check", *url).returncode == 0, "only --deep reads every byte"
    found = graft("store", "check", "--deep", *url)
    assert found.returncode == 1
    assert weights.name in found.stdout
    assert "1 objects or logs of the store are damaged" in found.stderr
    told = graft("--json", "store", "check", "--deep", *url)
    assert told.returncode == 1
    value = json.loads(told.stdout)
    assert value["counts"]["damaged"] == 1
    assert value["findings"][0]["severity"] == "damaged"


def test_gc_fails_where_something_stood_in_its_way(folder: Path) -> None:
    (folder / "v1/tenants/acme/strange").write_text("?")
    done = graft("store", "gc", "--store", folder.as_uri())
    assert done.returncode == 1
    assert "v1/tenants/acme/strange" in done.stdout
    assert len(list(blobs(folder).iterdir())) == 4


def test_a_copy_that_is_killed_is_repeated_and_refuses_what_contradicts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, own = tmp_path / "there", tmp_path / "tmp"
    own.mkdir()
    monkeypatch.setenv(
        "TMPDIR", str(own)
    )  # a copy of another test beside this one would clear up behind the killed one
    monkeypatch.setattr(tempfile, "tempdir", None)
    arguments = ("copy", folder.as_uri(), there.as_uri(), "--parallel", "1")
    large = bytes(64 << 20)  # takes so long that the copy is still under way when its progress is read here
    (blobs(folder) / hashlib.sha256(large).hexdigest()).write_bytes(large)

    def kill(progress: CareProgress) -> None:
        if progress.unit == "bytes":
            for child in running("adapter_store.care"):
                child.kill()

    with pytest.raises(CareFailed, match="run it again"):
        run_care(arguments, kill, lambda finding: None)
    assert half_copies(), "a killed copy leaves its temporary folder"
    first = json.loads(graft("--json", "store", *arguments).stdout)
    assert not half_copies(), "and the next one removes it"
    assert first["left_out"] == first["behind"] == 0
    again = json.loads(graft("--json", "store", *arguments).stdout)
    assert again["objects"] == 0
    assert contents(there) == contents(folder)
    store_of(there).tenants.update("acme", weight=7)
    assert "contradict" in refused(graft("--json", "store", *arguments))
    assert "one store" in refused(graft("--json", "store", "copy", folder.as_uri(), folder.as_uri()))


def half_copies() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("graft-copy-*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in (folder / "v1").rglob("*") if file.is_file()}


def test_release_ends_a_hold(folder: Path) -> None:
    store_of(folder).holds.hold("acme", "lost", ["ds-1"], by="tests")
    where = ("--tenant", "acme", "--store", folder.as_uri())
    assert graft("store", "release", "lost", *where).returncode == 0
    assert list(store_of(folder).holds.held("acme")) == []
    assert "holds nothing" in refused(graft("store", "release", "other", *where))


@pytest.mark.parametrize(
    ("command", "url", "says"),
    [
        ("check", "file:///nowhere/at/all", "there is no store"),
        ("gc", "/plain/path", "is no store URL"),
        ("check", "s3://bucket/p?endpoint=http://127.0.0.1:9", "does not answer"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(command: str, url: str, says: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    assert says in refused(graft("--json", "store", command, "--store", url, **keys))
