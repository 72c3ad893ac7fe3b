"""The threat model's promises are held by tests that there are: each line names some, and each of them exists and runs."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text()
THREATS = PAGE.split("\n## Threats\n")[1].split("\n## ")[0]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
SECTIONS = (
    "A tenant against another",
    "A malicious adapter",
    "A malicious data set",
    "A stolen key",
    "A compromised node, or store",
)
LINES = [line for line in THREATS.splitlines() if line.startswith("|") and not re.match(r"\|( threat |-)", line)]


@cache
def functions_of(file: str) -> dict[str, list[str]]:
    """The functions and methods of a file, with their decorators as text."""
    tree = ast.parse((ROOT / file).read_text())
    return {
        node.name: [ast.unparse(decorator) for decorator in node.decorator_list]
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_the_threats_are_those_that_we_said_we_would_think_of() -> None:
    assert tuple(re.findall(r"^### (.*)$", THREATS, re.MULTILINE)) == SECTIONS
    assert len(LINES) >= 30


@pytest.mark.parametrize("line", LINES, ids=[line.split("|")[1].strip() for line in LINES])
def test_each_line_names_tests_that_exist_and_run(line: str) -> None:
    threat, holds, tests = (cell.strip() for cell in line.strip("|").split("|"))
    assert threat
    assert holds
    named = NAMED.findall(tests)
    assert named, "no test holds it: write one, or move the line to 'What is not held'"
    assert NAMED.sub("", tests).replace(",", "").strip() == ""
    for file, name in named:
        assert name.startswith("test_")
        assert (ROOT / file).is_file(), file
        assert name in functions_of(file), f"{file} has no {name}"
        assert not any("skip" in mark for mark in functions_of(file)[name])
