"""What the pages tell a reader to type exists: every command, option, make target, module and GRAFT_ variable."""

import functools
import re

import pytest

from tests.docs.pages import ROOT, Page, pages
from tests.docs.spelled import wrong

PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
SHELLS = {"", "sh", "bash", "shell", "zsh"}
SETTINGS = {
    "GRAFT_TRAINER_": "trainer_service/settings.py",
    "GRAFT_SERVING_": "serving_service/settings.py",
    "GRAFT_REGISTRY_": "adapter_store/settings.py",
    "GRAFT_CONSOLE_": "graftwork/console/settings.py",
}
SOURCES = (
    "graftwork",
    "adapter_store",
    "trainer_service",
    "serving_service",
    "integrations",
    "deploy",
    "tests/integration",
    "tests/chaos",
)


@PAGES
def test_commands_stand_only_where_they_are_run(page: Page) -> None:
    """A fence without a language, or of a shell, would hide its commands from the test that runs them."""
    for fence in page.fences:
        at = f"{page.name}:{fence.line}"
        assert fence.language not in SHELLS, (
            f"{at}: name the language; commands go into ```console, with `$ ` before each"
        )
        if fence.language == "console":
            assert fence.lines[0].startswith("$ "), f"{at}: a console fence begins with a command"
            assert fence.attributes.get("not-run", "-").strip(), f"{at}: not-run says why"


@PAGES
def test_commands_are_spelled_right(page: Page) -> None:
    typed = [(command.line, command.text) for fence in page.fences for command in fence.commands]
    found = [f"{page.name}:{line}: {text}: {why}" for line, text in [*typed, *page.inline()] if (why := wrong(text))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("graft tenant limits|disable|nonsense", "graft tenant has no command nonsense"),
        ("A=1 graft --json train rows.jsonl --adapte x | tail", "graft train has no option --adapte"),
        ("true && graft nothing", "graft has no command nothing"),
        ("make chaoss", "no target chaoss in Makefile"),
        ("python -m benchmarks.nothing --json x", "no module benchmarks.nothing"),
        ("graft adapter split support OLD=90 NEW=10 --tenant acme", ""),
        ("graft prefetch NAME --to disk|host", ""),
    ],
)
def test_a_wrong_command_is_noticed(text: str, why: str) -> None:
    assert wrong(text) == why


@PAGES
def test_settings_exist(page: Page) -> None:
    known = _known_settings()
    text = page.path.read_text("utf-8")
    for name in set(re.findall(r"\bGRAFT_[A-Z0-9_]+", text)):
        family = name.endswith("_") and any(each.startswith(name) for each in known)
        assert name in known or family, f"{page.name}: nothing reads {name}"


def test_settings_that_nothing_reads_are_noticed() -> None:
    known = _known_settings()
    assert "GRAFT_SERVING_MAX_LORAS" in known
    assert "GRAFT_SERVING_MAX_LORA" not in known


@functools.cache
def _known_settings() -> set[str]:
    known: set[str] = set()
    for prefix, path in SETTINGS.items():
        if (ROOT / path).exists():
            fields = re.findall(r"^    (\w+): ", (ROOT / path).read_text(), re.MULTILINE)
            known |= {prefix + field.upper() for field in fields}
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".sh", ".toml", ".yaml", ".yml", ".service", ".env", ".tpl"}:
                known |= set(re.findall(r"\bGRAFT_[A-Z0-9_]*[A-Z0-9]\b", path.read_text("utf-8")))
    return known
