"""The checked-in stubs are what the protos generate."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_stubs_are_what_the_protos_generate(tmp_path: Path) -> None:
    subprocess.run(
        ["proto/generate.sh", tmp_path], cwd=ROOT, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}, check=True
    )
    made = {path.name: path.read_text() for path in (tmp_path / "graftwork" / "v1").iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / "graftwork" / "v1").iterdir() if path.name in made}
    assert len(made) == 12
    assert kept == made, "run proto/generate.sh and commit the result"


def test_no_package_file_under_proto() -> None:
    """An __init__.py there would shadow the package `proto` that proto-plus installs."""
    assert not list((ROOT / "proto").rglob("__init__.py"))
