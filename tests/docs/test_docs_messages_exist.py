"""Each message that the troubleshooting page explains stands in the sources, word for word, so nobody looks for it in vain.

Nothing runs here: of a message, the pieces between its NAMES, `...` and punctuation are looked for among the texts of the sources,
since a message is often made of several.
"""

import ast
import functools
import re

import pytest

from tests.docs.pages import ROOT, Page

PAGE = Page(ROOT / "docs" / "troubleshooting.md")
SOURCES = ("graftwork", "adapter_store", "trainer_service", "serving_service")
_ROW = re.compile(r"^\| (?P<message>`.*?) \| ")
_CODE = re.compile(r"`([^`]+)`")
_BREAK = re.compile(r"\.\.\.|\b[A-Z]{1,}\b|\b\w+_\w+\b|\d+|\([^()]*\)|\[[^]]*\]|[][()'<>&?=`,;:*/]|\bgraft \w+")
"""Where a message has a value, or is written in another way than the source: names, numbers, remarks, punctuation."""
_PARTS = 3
_LEAST = 4  # characters of a piece; shorter ones are everywhere


def _messages() -> list[str]:
    cells = [match["message"] for line in PAGE.path.read_text("utf-8").splitlines() if (match := _ROW.match(line))]
    tables = [line for line in PAGE.path.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells += [line.split(" | ")[1] for line in tables if line.count(" | ") == 2 and not line.startswith("| `")]
    codes = [code for cell in cells for code in _CODE.findall(cell)]
    return [
        code for code in codes if not code.startswith("graft ") or code.startswith("graft is ")
    ]  # others are commands


@functools.cache
def _said() -> str:
    """Every text of the sources, one below the other; values within them are NUL."""
    found: list[str] = []
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            if "_pb2" not in path.name:
                found.extend(_text(node) for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return "\n".join(text for text in found if len(text) >= _LEAST)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "\0" for part in node.values)
    return ""


def _pieces(message: str) -> list[str]:
    return [piece.strip() for piece in _BREAK.split(message) if len(piece.strip()) >= _LEAST]


def _unsaid(message: str) -> list[str]:
    return [piece for piece in _pieces(message) if not _is_said(piece, _PARTS)]


def _is_said(piece: str, parts: int) -> bool:
    """Whether a text has all of it, or up to so many have it together: of `no trainer service is up` a name is a value."""
    if piece in _said():
        return True
    words = piece.split(" ")
    beginnings = [" ".join(words[:end]) for end in range(len(words) - 1, 0, -1)] if parts > 1 else []
    return any(beginning in _said() and _is_said(piece[len(beginning) + 1 :], parts - 1) for beginning in beginnings)


@pytest.mark.parametrize("message", _messages())
def test_a_message_of_the_page_stands_in_the_sources(message: str) -> None:
    assert _pieces(message), f"{message} says nothing that could be looked for"
    assert not _unsaid(message), f"no source says {_unsaid(message)}"


def test_a_message_that_nobody_says_is_noticed() -> None:
    assert not _unsaid("tenant ACME is disabled")
    assert _unsaid("tenant ACME is switched off by the night watch") == ["is switched off by the night watch"]


def test_the_page_has_messages() -> None:
    assert len(_messages()) > 60
