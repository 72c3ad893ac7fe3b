"""Links lead somewhere, and every page can be reached from README.md."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Page, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Page) -> None:
    known = {each.path: each for each in pages()}
    for line, target in page.links():
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.path.parent / path).resolve() if path else page.path
        assert file.exists(), f"{page.name}:{line}: {target} does not exist"
        assert file.is_relative_to(ROOT), f"{page.name}:{line}: {target} is outside of the checkout"
        if anchor:
            assert anchor in known[file].anchors(), f"{page.name}:{line}: {path or page.name} has no heading #{anchor}"


def test_every_page_is_reached_from_the_readme() -> None:
    known = {each.path: each for each in pages()}
    seen, ahead = set(), [ROOT / "README.md"]
    while ahead:
        if (path := ahead.pop()) in seen:
            continue
        seen.add(path)
        ahead += _linked(known[path], known)
    missing = {page.name for path, page in known.items() if path not in seen}
    assert not missing, f"no link leads to {sorted(missing)}: add one to docs/README.md"


def _linked(page: Page, known: dict[Path, Page]) -> Iterator[Path]:
    for _, target in page.links():
        file = (page.path.parent / target.partition("#")[0]).resolve()
        if file in known:
            yield file
        elif file.is_dir():
            yield from (path for path in known if path.parent == file)
