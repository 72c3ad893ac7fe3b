"""Each page's commands, typed in its order into a shell, do what the page says.

The quickstart in every run of the tests; the other pages, each with services of its own, in the thorough ones.
"""

from pathlib import Path

import pytest
from minio import Minio

from tests.contract.rgw import Rgw
from tests.docs.checkout import make_origin
from tests.docs.pages import Page, pages
from tests.docs.reader import Reader, differs
from tests.integration.line.conftest import other_backbone

__all__ = ["other_backbone"]
SECONDS = 900.0  # many times what a page takes alone on two cores
OFTEN = {"docs/quickstart.md"}


def _parameters() -> list[object]:
    run = [page for page in pages() if page.runnable()]
    marks = {page.name: pytest.mark.slow if page.name in OFTEN else pytest.mark.thorough for page in run}
    return [pytest.param(page, id=page.name, marks=[pytest.mark.slow, marks[page.name]]) for page in run]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_origin(tmp_path_factory.mktemp("origin"))


@pytest.fixture
def reader(tmp_path: Path, origin: Path) -> Reader:
    return Reader(tmp_path, origin)


@pytest.mark.parametrize("page", _parameters())
def test_a_page_does_what_it_says(page: Page, tmp_path: Path, origin: Path, request: pytest.FixtureRequest) -> None:
    typed = "\n".join(command.text for command in page.runnable())
    model: Path | None = request.getfixturevalue("other_backbone") if "models/my-model" in typed else None
    server: Rgw | None = request.getfixturevalue("rgw") if "$BUCKET" in typed else None
    Reader(tmp_path, origin, model, _bucket(server) if server else {}).read(page, seconds=SECONDS)


def _bucket(server: Rgw) -> dict[str, str]:
    """Makes a bucket; returns the variables of a reader who has it."""
    address = server.endpoint.removeprefix("http://")
    Minio(address, server.access_key, server.secret_key, secure=False, region="us-east-1").make_bucket("read")
    keys = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
    return keys | {"BUCKET": "read", "ENDPOINT": server.endpoint}


def _page(folder: Path, *lines: str) -> Page:
    path = folder / "page.md"
    path.write_text("\n".join(["```console", *lines, "```", ""]))
    return Page(path)


class _Written(Page):
    """A page outside of the checkout."""

    @property
    def name(self) -> str:
        return self.path.name


def test_a_reader_keeps_the_shell_and_sees_what_is_printed(reader: Reader, tmp_path: Path) -> None:
    page = _page(tmp_path, "$ word=hello", "$ echo first; echo $word \\", "> you", "first", "hello y...")
    reader.read(_Written(page.path), seconds=60)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["$ false", "$ true"], "failed"),
        (["$ echo one", "two"], "does not print: two"),
        (["$ echo one; echo two", "two", "one"], "does not print: one"),
        (["$ exit 0", "$ true"], "ended the shell"),
        (["$ true && graft --version && python -c 'print(1 + 1)'", "3"], "does not print: 3"),
    ],
)
def test_a_page_that_lies_is_noticed(reader: Reader, tmp_path: Path, lines: list[str], why: str) -> None:
    page = _page(tmp_path, *lines)
    with pytest.raises(AssertionError, match=why):
        reader.read(_Written(page.path), seconds=60)


def test_dots_stand_for_anything() -> None:
    assert differs(("job  ... succeeded", "..."), "job 01J9 x   succeeded\nmore\n") is None
    assert differs(("job ... failed",), "job 01J9 succeeded\n") == "job ... failed"
