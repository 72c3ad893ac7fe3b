"""The console in a real browser on the whole product: a job that is started in it and trains, one that is cancelled, traffic on the
version, answers side by side."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from graftwork.local.home import Home
from graftwork.template import user_content
from tests.integration.console.console_screen import SIZES, Scheme, Screen, headless, screen
from tests.integration.line.conftest import Graft

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
_TRAINING_MS = 240_000


def test_a_job_is_started_watched_and_its_version_answers(up: Graft, rows_file: Callable[[str], Path]) -> None:
    key = up.json("tenant", "create", "violet")["api_key"]
    home = Home.open(up.home)
    address, operator = f"http://{home.console_address()}", home.operator_key()
    assert operator is not None
    viewer = up.json("operator", "add", "lena", "--role", "viewer")["api_key"]
    small = up.json("train", str(rows_file("blue")), "-t", "violet", "-a", "first", "--max-steps", "2", "--no-wait")
    with headless() as chromium, screen(chromium, address, "wide", "dark") as window:
        window.sign_in(key)
        job = _started(window, small["dataset"], adapter="word", steps="60")
        _curve_moves(window.page)
        window.fits()
        window.picture("job-training")
        expect(window.page.locator("#facts .state")).to_have_text("succeeded", timeout=_TRAINING_MS)
        window.picture("job-done")
        _cancelled(window, _started(window, small["dataset"], adapter="never", steps="3000"))
        _answers_and_traffic(window, up, key)
    paths = {
        "datasets": "/datasets",
        "dataset": f"/{small['dataset']}",
        "train": f"/{small['dataset']}/train?adapter=word",
        "jobs": "/jobs",
        "job": job,
        "cancel": f"{job}/cancel",
        "overview": "/",
        "residency": "/residency",
        "traffic": "/traffic",
        "adapter": "/tenants/violet/adapters/word",
        "tenant": "/tenants/violet",
        "audit": "/audit",
    }
    looks: tuple[tuple[str, Scheme], ...] = tuple((size, scheme) for size in SIZES for scheme in ("light", "dark"))
    for size, scheme in looks:
        with headless() as chromium, screen(chromium, address, size, scheme) as window:
            window.sign_in(operator)
            for name, path in paths.items():
                window.go(path)
                window.fits()
                window.picture(f"line-{name}")
    with headless() as chromium, screen(chromium, address, "wide", "light") as window:
        window.sign_in(viewer)
        for name in ("overview", "dataset", "job", "residency", "adapter", "tenant"):
            window.go(paths[name])
            expect(window.page.locator("main button, main .danger")).to_have_count(1 if name == "residency" else 0)
            window.picture(f"viewer-{name}")


def _started(window: Screen, dataset: str, adapter: str, steps: str) -> str:
    """Starts a job by keyboard, from the list of data sets on; returns its path."""
    page = window.page
    window.go("/datasets")
    window.picture("datasets-tenant")
    page.locator(f'a[href="/{dataset}/train"]').press("Enter")
    page.get_by_label("Adapter, new or known").fill(adapter)
    page.get_by_text("More settings").press("Enter")
    page.get_by_label("Steps at most").fill(steps)
    page.get_by_label("Learning rate").fill("0.02")
    page.get_by_label("Move the alias even").check()
    page.get_by_role("button", name="Check what it takes").press("Enter", timeout=_TRAINING_MS)
    expect(page.locator("#takes")).to_be_visible(timeout=_TRAINING_MS)
    window.fits()
    window.picture("train-checked")
    page.get_by_role("button", name="Start training").press("Enter", timeout=_TRAINING_MS)
    expect(page.get_by_role("status").first).to_contain_text("is queued")
    return page.url.removeprefix(window.address)


def _curve_moves(page: Page) -> None:
    """The curve of the training loss becomes longer without the page being loaded again."""
    curve = page.locator("#loss-chart path.c1").first
    expect(curve).to_have_attribute("d", re.compile("L"), timeout=_TRAINING_MS)
    page.evaluate("document.body.dataset.same = 'page'")
    drawn, step = curve.get_attribute("d"), page.locator("#step").inner_text()
    expect(curve).not_to_have_attribute("d", drawn or "", timeout=_TRAINING_MS)
    expect(page.locator("#step")).not_to_have_text(step, timeout=_TRAINING_MS)
    assert page.locator("body").get_attribute("data-same") == "page"


def _cancelled(window: Screen, job: str) -> None:
    page = window.page
    expect(page.locator("#facts .state")).to_have_text("running", timeout=_TRAINING_MS)
    page.get_by_role("link", name="Cancel").press("Enter")
    expect(page.locator("h1")).to_have_text("Cancel this job?")
    window.picture("job-cancel")
    page.get_by_role("button", name="Cancel the job").press("Enter")
    expect(page.locator("#facts .state")).to_have_text("cancelled", timeout=_TRAINING_MS)
    assert page.url.endswith(job)
    window.picture("job-cancelled")


def _answers_and_traffic(window: Screen, up: Graft, key: str) -> None:
    """Two answers side by side; the page of traffic then follows what others ask meanwhile."""
    page = window.page
    window.go("/playground")
    page.get_by_label("Prompt", exact=True).fill(user_content("say", "item 7"))
    page.get_by_role("combobox", name="One version").fill("word")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer-one .text")).to_contain_text("blue", timeout=_TRAINING_MS)
    expect(page.locator("#answer-one .where")).to_contain_text("route swapped")
    expect(page.locator("#answer-one .same")).to_have_text("Another answer than the first.", timeout=_TRAINING_MS)
    window.picture("line-playground")
    window.go("/traffic")
    hour = page.locator("#windows tr").last.locator("td").first
    before = int(hour.inner_text())
    assert before >= 2
    for number in range(3):
        up.json("generate", "--tenant", "violet", "--adapter", "word", f"item {number}", GRAFT_API_KEY=key)
    expect(hour).to_have_text(str(before + 3))
    window.fits()
    window.picture("line-traffic-live")
