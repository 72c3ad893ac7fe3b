"""A fresh clone of what is worked on here: the tree's files, those that are not committed yet among them, cloned from a repository.

Owns how the clone comes to its `.venv` without a download: the packages are those that the tests run with, the stamp of
`deploy/setup.sh` says that they are there, and the clone's own code comes before any that is installed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT

_LOCK = "deploy/locks/cpu.lock"


def make_origin(folder: Path) -> Path:
    """Makes a repository with one commit, of all files here that git does not ignore; returns its folder."""
    listed = _git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (source := ROOT / name).is_file():  # neither removed nor a folder behind a link
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _git(folder, "add", "--all")
    author = ("-c", "user.name=reader", "-c", "user.email=reader@example.com")
    _git(folder, *author, "commit", "--quiet", "--no-verify", "--message=All of it")
    return folder


def clone(origin: Path, folder: Path) -> None:
    """Clones, and sets up as `deploy/setup.sh cpu` does where it has nothing to download."""
    _git(origin, "clone", "--quiet", str(origin), str(folder))
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    run = f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}"'
    _write_program(programs / "python", f'{run} "$@"\n')
    _write_program(programs / "graft", f'{run} -m graftwork.cli.main "$@"\n')
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    wanted = b"".join((folder / name).read_bytes() for name in (_LOCK, "deploy/setup.sh", "pyproject.toml"))
    (programs.parent / "graftwork-setup").write_text(hashlib.sha256(wanted).hexdigest() + "\n")


def _git(folder: Path, *words: str) -> str:
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_")
    }  # a hook's would lead elsewhere
    return subprocess.run(["git", "-C", folder, *words], env=own, stdout=subprocess.PIPE, text=True, check=True).stdout


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
