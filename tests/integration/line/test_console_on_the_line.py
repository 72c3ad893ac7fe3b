"""The console in a real browser on the whole product: a job that trains, traffic on its version, answers side by side."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from graftwork.local.home import Home
from graftwork.template import user_content
from tests.integration.console.console_screen import headless, screen
from tests.integration.line.conftest import Graft

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
_TRAINING_MS = 240_000


def test_a_job_is_watched_until_its_version_answers(up: Graft, rows_file: Callable[[str], Path]) -> None:
    key = up.json("tenant", "create", "violet")["api_key"]
    options = ("--max-steps", "60", "--lr", "0.02", "--publish-anyway", "--no-wait")
    job = up.json("train", str(rows_file("red")), "-t", "violet", "-a", "word", *options)["name"]
    home = Home.open(up.home)
    address, operator = f"http://{home.console_address()}", home.operator_key()
    assert operator is not None
    with headless() as chromium, screen(chromium, address, "wide", "dark") as window:
        page = window.page
        window.sign_in(key)
        window.go(f"/{job}")
        expect(page.locator("#loss-chart path.c1").first).to_have_attribute("d", re.compile("L"), timeout=_TRAINING_MS)
        window.picture("job-training")
        expect(page.locator("#facts .state")).to_have_text("succeeded", timeout=_TRAINING_MS)
        window.picture("job-done")
        window.go("/playground")
        page.get_by_label("Prompt", exact=True).fill(user_content("say", "item 7"))
        page.get_by_role("combobox", name="One version").fill("word")
        page.get_by_role("button", name="Ask").click()
        expect(page.locator("#answer-one .text")).to_contain_text("red", timeout=_TRAINING_MS)
        expect(page.locator("#answer-one .where")).to_contain_text("route swapped")
        expect(page.locator("#answer-one .same")).to_have_text("Another answer than the first.", timeout=_TRAINING_MS)
        window.picture("line-playground")
        window.go("/traffic")
        expect(page.locator("#windows tr").last.locator("td").first).to_have_text("2")
        window.fits()
        window.picture("line-traffic")
    with headless() as chromium, screen(chromium, address, "narrow", "light") as window:
        window.sign_in(operator)
        window.go("/residency")
        expect(window.page.locator("#slots")).to_contain_text("violet/word")
        window.fits()
        window.picture("line-residency")
        window.go("/")
        window.picture("line-overview")
