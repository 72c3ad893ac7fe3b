"""What the image is built from, as far as it shows without building it (tests/deploy/test_image_build.py does).

Proves: hadolint finds nothing; each file that is copied is there and reaches the builder, and keys and environments do not;
what the image leaves out is locked and needed by nothing that it keeps; it does not run as root; the entry point starts what
its first word names, as the process that signals reach.
"""

import fnmatch
import importlib.metadata
import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.places import ROOT

DOCKER = ROOT / "deploy/docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
LOCKS = {name: (ROOT / f"deploy/locks/{name}.lock").read_text() for name in ("cpu", "gpu")}


def locked(name: str) -> set[str]:
    return {
        canonicalize_name(found) for found in re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])?==", LOCKS[name], re.MULTILINE)
    }


def left_out() -> set[str]:
    return set((DOCKER / "not-in-images.txt").read_text().split())


def reaches_the_builder(path: str) -> bool:
    """What .dockerignore says about a path: the last line that fits it or a folder above it."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    parts = Path(path).parts
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    taken = True
    for line in lines:
        pattern = line.removeprefix("!").removeprefix("**/")
        names = [*above, *parts] if "**/" in line else above
        if any(fnmatch.fnmatch(name, pattern) for name in names):
            taken = line.startswith("!")
    return taken


def test_hadolint_finds_nothing(checkers: Path) -> None:
    done = subprocess.run([checkers / "hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def test_what_is_copied_is_there_and_sent() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert {"adapter_store", "graftwork", "serving_service", "trainer_service", "pyproject.toml"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert reaches_the_builder(source), f".dockerignore keeps {source} away"
    packages = re.findall(
        r'include = \["(.*?)"\]\n\n\[tool.setuptools.package-data', (ROOT / "pyproject.toml").read_text()
    )
    assert {name.rstrip("*") for name in packages[0].split('", "')} <= set(copied)


@pytest.mark.parametrize("path", [".venv/bin/python", ".git/config", ".graft-demo/operator.key", "deploy/.env", "deploy/compose/secrets/operator.key", "graftwork/__pycache__/x.pyc", "tests/conftest.py"])  # fmt: skip
def test_keys_and_environments_are_not_sent(path: str) -> None:
    assert not reaches_the_builder(path)


def needed(requirement: Requirement, seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    """Packages that one needs, with what those need, as their own metadata say."""
    name = canonicalize_name(requirement.name)
    if (name, frozenset(requirement.extras)) in seen:
        return
    seen.add((name, frozenset(requirement.extras)))
    yield name
    try:
        wanted = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return  # what deploy/locks leave out
    for text in wanted:
        further = Requirement(text)
        if further.marker is None or any(further.marker.evaluate({"extra": one}) for one in (*requirement.extras, "")):
            yield from needed(further, seen)


def test_nothing_that_stays_needs_what_is_left_out() -> None:
    assert left_out() <= locked("cpu")
    seen: set[tuple[str, frozenset[str]]] = set()
    kept = {
        name
        for wanted in (*(locked("cpu") - left_out()), "graftwork[trainer,serving,console,plot]")
        for name in needed(Requirement(wanted), seen)
    }
    assert len(kept) > 150
    assert kept & left_out() == set()


def test_the_filter_takes_whole_packages_out(tmp_path: Path) -> None:
    """The script's own awk, on the real locks: no hash is left of what goes, and all of what stays."""
    script = (DOCKER / "install.sh").read_text()
    awk = script[script.index("awk -v drop") : script.index('>"$work/lock"')]
    for name, text in LOCKS.items():
        done = subprocess.run(
            ["sh", "-c", f'only= lock=deploy/locks/{name}.lock; {awk} >"$1/lock"', "sh", tmp_path],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        kept = (tmp_path / "lock").read_text()
        assert {
            canonicalize_name(found) for found in re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])?==", kept, re.MULTILINE)
        } == locked(name) - left_out()
        lines = [line.strip() for line in kept.splitlines()]
        for at, line in enumerate(lines):
            if "==" in line and not line.startswith("#"):
                assert lines[at + 1].startswith("--hash=sha256:"), line
        assert 0 < kept.count("--hash=") < text.count("--hash=")


def test_final_stages_are_not_root() -> None:
    finals = re.findall(r"^FROM run AS (cpu|cuda)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in finals] == ["cpu", "cuda"]
    for name, text in finals:
        assert "USER 10001:10001" in text, name
        assert "HEALTHCHECK" in text, name
        assert text.index("USER") > text.rindex("COPY"), name


@pytest.mark.parametrize(
    ("word", "module"),
    [
        ("serving", "serving_service"),
        ("trainer", "trainer_service"),
        ("console", "graftwork.console"),
        ("registry", "adapter_store"),
    ],
)
def test_the_first_word_says_what_runs(word: str, module: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$$ $*"\n')
    python.chmod(0o755)
    done = subprocess.Popen(
        [DOCKER / "entrypoint.sh", word, "--more"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    said, _ = done.communicate()
    assert said == f"{done.pid} -m {module} --more\n"  # the same process: exec, not a child
    assert importlib.util.find_spec(module) is not None


def test_other_words_are_commands() -> None:
    done = subprocess.run([DOCKER / "entrypoint.sh", "echo", "a", "b c"], capture_output=True, text=True, check=False)
    assert done.stdout == "a b c\n"
    done = subprocess.run([DOCKER / "entrypoint.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "serving, trainer" in done.stderr
