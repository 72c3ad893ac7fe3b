"""Whether a command that a page mentions exists: subcommands and options of `graft`, targets of make, Python's modules.

Nothing runs here, so it holds for what stands in running text as well, with its NAMES, `a|b|c` and `...`.
"""

import importlib.util
import re
import shlex
from typing import Any

import typer

from graftwork.cli.main import app
from tests.docs.pages import ROOT

_ASSIGNMENT = re.compile(r"^[A-Z_][A-Z0-9_]*=")
_ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>&1"}


def wrong(text: str) -> str:
    """Says what is wrong with one line of shell; empty when nothing is, or when it is no command of ours."""
    for words in _simple_commands(text):
        while words and _ASSIGNMENT.match(words[0]):
            words = words[1:]
        if not words:
            continue
        if words[0] == "graft" and words[1:2] != ["is"]:  # "graft is already up" is a message
            problem = _graft(words[1:])
        elif words[0] == "make":
            problem = _make(words[1:])
        elif words[:2] in (["python", "-m"], [".venv/bin/python", "-m"]) and len(words) > 2:
            problem = _module(words[2])
        else:
            problem = ""
        if problem:
            return problem
    return ""


def _simple_commands(text: str) -> list[list[str]]:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # an apostrophe of running text
        words = text.split()
    commands: list[list[str]] = [[]]
    for word in words:
        if word in _ENDS:
            commands.append([])
        elif word.endswith(";"):
            commands[-1].append(word[:-1])
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def _graft(words: list[str]) -> str:
    command: Any = typer.main.get_command(app)  # its class is click's, or Typer's copy of it
    path = "graft"
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "...":
            return ""
        if word.startswith("-"):
            name, _, value = word.partition("=")
            options = {spelled: each for each in command.params for spelled in (*each.opts, *each.secondary_opts)}
            if name == "--help":
                continue
            if name not in options:
                return f"{path} has no option {name}"
            option = options[name]
            if not option.is_flag and not value and rest:
                rest.pop(0)
        elif hasattr(command, "commands"):
            for name in word.split("|"):
                if (found := command.commands.get(name)) is None:
                    return f"{path} has no command {name}"
            command, path = found, f"{path} {name}"
    return ""


def _make(words: list[str]) -> str:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = [word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)]
    return "".join(f"no target {word} in Makefile" for word in asked if word not in targets)


def _module(name: str) -> str:
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    return "" if found else f"no module {name}"
