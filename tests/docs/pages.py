"""The documentation as the tests read it: pages, their fences, the commands in them, and code in running text.

Owns Markdown only as far as these pages use it. A fence of commands looks like this, and every other fence names a language:

    ```console
    $ graft tenant create acme
    ... operator's output ...
    ```

A line with `$ ` is a command, lines with `> ` behind it go on with it, all others are what it prints. `not-run="why"` after
the language leaves a fence out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^ *```(?P<language>[\w.+-]*) *(?P<attributes>.*)$")
_ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Command:
    """What a reader types.

    Attributes:
        text: as bash gets it, over several lines where the page has it so.
        prints: lines that the page says it prints; `...` stands for anything.
        line: of the page, counted from 1.
    """

    text: str
    prints: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Fence:
    """A block of code: the word after its ticks, what is set behind it, its lines, and the line where it opens."""

    language: str
    attributes: dict[str, str]
    lines: tuple[str, ...]
    line: int

    @property
    def commands(self) -> list[Command]:
        """The commands of a console fence; none of any other."""
        if self.language != "console":
            return []
        found: list[tuple[list[str], list[str], int]] = []
        for number, text in enumerate(self.lines, self.line + 1):
            if text.startswith("$ "):
                found.append(([text[2:]], [], number))
            elif text.startswith("> ") and found and not found[-1][1]:
                found[-1][0].append(text[2:])
            elif found:
                found[-1][1].append(text)
        return [Command("\n".join(typed), tuple(prints), line) for typed, prints, line in found]


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def fences(self) -> list[Fence]:
        fences: list[Fence] = []
        opened: tuple[re.Match[str], int] | None = None
        lines: list[str] = []
        for number, text in enumerate(self.path.read_text("utf-8").splitlines(), 1):
            ticks = _FENCE.match(text)
            if opened is None and ticks:
                opened, lines = (ticks, number), []
            elif opened and text.strip() == "```":
                head, line = opened
                attributes = dict(_ATTRIBUTE.findall(head["attributes"]))
                fences.append(Fence(head["language"], attributes, tuple(lines), line))
                opened = None
            elif opened:
                lines.append(text)
        assert opened is None, f"{self.name}: a fence is never closed"
        return fences

    @property
    def prose(self) -> list[tuple[int, str]]:
        """Lines outside of fences, numbered."""
        inside, found = False, []
        for number, text in enumerate(self.path.read_text("utf-8").splitlines(), 1):
            if text.lstrip().startswith("```"):
                inside = not inside
            elif not inside:
                found.append((number, text))
        return found

    def inline(self) -> Iterator[tuple[int, str]]:
        """Code within running text."""
        for number, text in self.prose:
            for code in _INLINE.findall(text):
                yield number, code

    def links(self) -> Iterator[tuple[int, str]]:
        """Targets of links, as written."""
        for number, text in self.prose:
            for target in _LINK.findall(text):
                yield number, target

    def anchors(self) -> set[str]:
        """What `#...` may name: headings as GitHub spells them."""
        headings = [text.lstrip("#").strip() for _, text in self.prose if text.startswith("#")]
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def runnable(self) -> list[Command]:
        """The commands that are run, in the order of the page."""
        return [command for fence in self.fences if "not-run" not in fence.attributes for command in fence.commands]


def pages() -> list[Page]:
    """README.md and everything under docs/."""
    return [Page(ROOT / "README.md"), *(Page(path) for path in sorted((ROOT / "docs").rglob("*.md")))]
