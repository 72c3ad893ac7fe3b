"""The console in a real browser: every page at both sizes and in both colour schemes, by keyboard, live, without a complaint."""

import os

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from adapter_store import open_store
from graftwork.client.errors import RemoteError
from graftwork.v1 import serving_pb2 as pb
from serving_service.core.admission_limits import TenantPolicy
from serving_service.core.service import Merging
from tests.integration.console.console_screen import Scheme, Screen, screen
from tests.integration.console.wordy_engine import HELD, WordyEngine, WordyMerges
from tests.store_samples import make_adapter
from tests.unit.serving.scripted_service import OPERATOR, ScriptedService

LOOKS: tuple[tuple[str, Scheme], ...] = (("wide", "light"), ("wide", "dark"), ("narrow", "light"), ("narrow", "dark"))


@dataclass(frozen=True)
class Live:
    """A console on services that have had some traffic.

    Attributes:
        service: with acme's adapters `support` (three versions, `prod` names the second) and `sales`; bloom has none.
        address: of the console.
        keys: of the tenants.
        versions: of `support`, oldest first.
    """

    service: ScriptedService
    address: str
    keys: dict[str, str]
    versions: list[str]

    def ask(self, key: str, model: str, prompt: str = "hello there") -> str:
        """The answer, or the error's name."""
        with self.service.client(key) as client:
            try:
                return client.generate(pb.GenerateRequest(prompt=prompt, model=model)).text
            except RemoteError as error:
                return type(error).__name__


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("console-live")
    merging = Merging(WordyMerges(), folder / "merged", 10**9, 2)
    store = open_store(f"file://{folder}/store")
    service = ScriptedService(folder, store, WordyEngine(), TenantPolicy(requests_per_minute=600), merging)
    with service.client() as client:
        keys = {}
        for tenant in ("acme", "bloom"):
            client.create_tenant(tenant)
            keys[tenant] = client.create_key(tenant, "laptop").secret
        made = [
            client.register_adapter("acme", name, make_adapter(folder / f"adapter-{seed}", seed))
            for seed, name in enumerate(("support", "support", "support", "sales"))
        ]
        digests = [answer.version.name.rsplit("/", 1)[1] for answer in made]
        for digest in digests[:2]:
            client.set_alias("tenants/acme/adapters/support/aliases/prod", digest, reason="release")
    address_file = folder / "console.address"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")} | {
        "GRAFT_CONSOLE_TRAINER": service.address,
        "GRAFT_CONSOLE_SERVING": service.address,
        "GRAFT_CONSOLE_ADDRESS_FILE": str(address_file),
    }
    log = folder / "console.log"
    with log.open("wb") as lines:
        console = subprocess.Popen(
            [sys.executable, "-m", "graftwork.console"], env=environment, stdout=lines, stderr=lines
        )
    deadline = time.monotonic() + 60
    while not address_file.exists():
        assert console.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)  # polls an outside process; nothing else tells
    running = Live(service, f"http://{address_file.read_text().strip()}", keys, digests[:3])
    for model in (*(f"support@{digest}" for digest in running.versions), "sales@" + digests[3], "nothing", ""):
        running.ask(keys["acme"], model)
    with service.client() as client:
        client.promote("acme", f"support@{running.versions[0]}", wait=True)
    yield running
    console.terminate()
    assert console.wait(30) == 0
    service.stop()
    written = log.read_text()
    assert "hello" not in written
    assert OPERATOR not in written


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


Show = Callable[..., Screen]


@pytest.fixture
def show(chromium: Browser, live: Live) -> Iterator[Show]:
    """Opens windows."""
    with ExitStack() as opened:
        yield lambda size="wide", scheme="light": opened.enter_context(screen(chromium, live.address, size, scheme))


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_every_page_fits_the_window_and_complains_of_nothing(show: Show, live: Live, size: str, scheme: Scheme) -> None:
    """Own style, own scripts, nothing from elsewhere, nothing wider than the window."""
    window = show(size, scheme)
    window.go("/signin")
    window.picture("signin")
    window.sign_in(OPERATOR)
    adapter, digest = "/tenants/acme/adapters/support", live.versions[0]
    for name, path in {
        "overview": "/",
        "tenants": "/tenants",
        "tenant": "/tenants/acme",
        "adapters": "/adapters",
        "adapter": adapter,
        "version": f"{adapter}/versions/{digest}",
        "alias": f"{adapter}/aliases/prod",
        "residency": "/residency",
        "evict": f"/residency/evict?tenant=acme&adapter=support&version={digest}",
        "traffic": "/traffic",
        "traffic-hour": "/traffic?tenant=acme&span=60",
        "playground": "/playground?tenant=acme",
    }.items():
        window.go(path)
        expect(window.page.locator("h1")).to_be_visible()
        expect(window.page.locator("nav[aria-label=Pages] a[aria-current]")).to_have_count(1)
        window.fits()
        window.picture(name)
    assert (
        window.page.evaluate("getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(246, 247, 245)",
            "dark": "rgb(16, 21, 18)",
        }[scheme]
    )
