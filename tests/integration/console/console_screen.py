"""A real Chromium on a console: its window, what went wrong in its pages, and pictures of them.

Owns the browser. Does not own what the tests look for. GRAFT_SCREENSHOTS names a folder for the pictures; none are made without.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, Response, expect, sync_playwright

from tests.conftest import without

SIZES = {"wide": (1280, 800), "narrow": (390, 844)}
Scheme = Literal["light", "dark"]
WAIT_MS = 20_000


@dataclass
class Screen:
    """A window and everything that it complained of.

    Attributes:
        page: what is shown.
        address: of the console, `http://host:port`.
        name: of the size and the scheme, for pictures.
        complaints: errors of scripts and of the content security policy, requests to others, answers of 500 and above.
    """

    page: Page
    address: str
    name: str
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        self.page.goto(self.address + path, wait_until="load")

    def sign_in(self, key: str) -> None:
        self.go("/signin")
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("button", name="Sign out").wait_for()

    def fits(self) -> None:
        """Nothing but what scrolls by itself is wider than the window."""
        width = self.page.evaluate("() => [document.documentElement.scrollWidth, window.innerWidth]")
        assert width[0] <= width[1], f"{self.page.url} is {width[0]} pixels wide in a window of {width[1]}"

    def picture(self, name: str) -> None:
        """Keeps the whole page as it is, where a folder is named."""
        if folder := os.environ.get("GRAFT_SCREENSHOTS"):
            file = Path(folder) / f"{name}-{self.name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=file, full_page=True)


@contextmanager
def headless() -> Iterator[Browser]:
    """Starts Chromium, the distribution's, without a display; skips without one, and fails on CI."""
    if (program := shutil.which("chromium")) is None:
        without("no browser: chromium is not installed (Debian: chromium)")
    expect.set_options(timeout=WAIT_MS)  # Playwright's own five seconds are little on a machine that does other work
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def screen(chromium: Browser, address: str, size: str, scheme: Scheme) -> Iterator[Screen]:
    """Opens a window with no cookies; fails at its end when the pages complained."""
    width, height = SIZES[size]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    shown = Screen(page, address, f"{size}-{scheme}")

    def answered(response: Response) -> None:
        if response.status >= 500:
            shown.complaints.append(f"{response.status} {response.url}")

    page.on("response", answered)
    page.on("pageerror", lambda error: shown.complaints.append(str(error)))
    page.on("console", lambda line: shown.complaints.append(line.text) if line.type == "error" else None)
    page.on("request", lambda sent: shown.complaints.append(sent.url) if not sent.url.startswith(address) else None)
    yield shown
    context.close()
    assert shown.complaints == []
