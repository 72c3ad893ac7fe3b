"""The console in a real browser: every page at both sizes and in both colour schemes, by keyboard, live, without a complaint."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, expect

from adapter_store import open_store
from adapter_store.manifest import DatasetFinding
from graftwork.client.errors import RemoteError
from graftwork.v1 import serving_pb2 as pb
from serving_service.core.admission_limits import TenantPolicy
from serving_service.core.service import Merging
from tests.integration.console.console_screen import Scheme, Screen, headless, screen
from tests.integration.console.wordy_engine import HELD, WordyEngine, WordyMerges
from tests.store_samples import make_adapter
from tests.unit.serving.scripted_service import OPERATOR, ScriptedService

LOOKS = (
    ("wide", "light"),
    ("narrow", "dark"),
    pytest.param("wide", "dark", marks=pytest.mark.thorough),
    pytest.param("narrow", "light", marks=pytest.mark.thorough),
)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Live:
    """A console on services that have had some traffic.

    Attributes:
        service: with acme's adapters `support` (three versions, `prod` names the second) and `sales`; bloom has none.
        address: of the console.
        keys: of the tenants.
        versions: of `support`, oldest first.
        dataset: id of acme's one data set.
    """

    service: ScriptedService
    address: str
    keys: dict[str, str]
    versions: list[str]
    dataset: str

    @property
    def engine(self) -> WordyEngine:
        assert isinstance(self.service.engine, WordyEngine)
        return self.service.engine

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
    merging = Merging(WordyMerges(), folder / "merged", 10**9, 2, start_seconds=60.0)
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
    rows = folder / "rows.jsonl"
    rows.write_text('{"instruction": "a", "response": "b"}\n')
    cut = DatasetFinding(
        level="warning",
        code="cut",
        message="2 rows are longer than 512 tokens and are cut.",
        fix="Shorten them.",
        count=2,
    )
    put = store.datasets.put(
        "acme", rows, display_name="refunds, spring.jsonl", format="jsonl", rows=1840, findings=(cut,)
    )
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
    running = Live(service, f"http://{address_file.read_text().strip()}", keys, digests[:3], put.id)
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
    with headless() as browser:
        yield browser


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
        "datasets": "/datasets",
        "dataset": f"/tenants/acme/datasets/{live.dataset}",
        "train": f"/tenants/acme/datasets/{live.dataset}/train",
        "residency": "/residency",
        "evict": f"/residency/evict?tenant=acme&adapter=support&version={digest}",
        "traffic": "/traffic",
        "traffic-hour": "/traffic?tenant=acme&span=60",
        "playground": "/playground?tenant=acme",
        "audit": "/audit",
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


def focused(window: Screen) -> dict[str, str]:
    """What has the keyboard's focus, and whether it is seen to have it."""
    found = window.page.evaluate(
        """() => { const at = document.activeElement, style = getComputedStyle(at);
        return { id: at.dataset.walked ?? "", tag: at.tagName, text: (at.ariaLabel ?? at.innerText ?? "").trim(),
                 outline: style.outlineStyle }; }"""
    )
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "path",
    ["/residency", "/playground?tenant=acme"]
    + [pytest.param(path, marks=pytest.mark.thorough) for path in ("/traffic", "/tenants/acme", "/adapters")],
)
def test_the_tab_key_reaches_all_that_can_be_used_and_it_is_seen(show: Show, path: str) -> None:
    window = show("narrow")
    window.sign_in(OPERATOR)
    window.go(path)
    wanted = window.page.evaluate(
        """() => { let number = 0;
        for (const part of document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']"))
          if (part.checkVisibility() && part.type !== "hidden" && !part.disabled) part.dataset.walked = String(number++);
        return number; }"""
    )
    reached = set()
    for _ in range(wanted + 1):
        window.page.keyboard.press("Tab")
        here = focused(window)
        if here["id"]:
            assert here["outline"] != "none", here
            reached.add(int(here["id"]))
    # What is refreshed on the way is new, and has lost its number; nothing else may.
    fresh = window.page.evaluate(
        "() => [...document.querySelectorAll('[data-walked]')].map((part) => +part.dataset.walked)"
    )
    assert set(fresh) <= reached


def test_signing_in_and_out_and_skipping_to_the_page_need_no_mouse(show: Show) -> None:
    window = show()
    window.go("/playground")
    expect(window.page.get_by_label("API key")).to_be_focused()
    window.page.keyboard.type(OPERATOR)
    window.page.keyboard.press("Enter")
    expect(window.page.locator("h1")).to_have_text("Playground")
    # What is drawn when the services have answered takes the place of what had the focus.
    expect(window.page.locator("main select").first).to_be_enabled()
    window.page.wait_for_load_state("networkidle")
    window.page.keyboard.press("Tab")
    assert focused(window)["text"] == "Skip to the page"
    window.page.keyboard.press("Enter")
    window.page.keyboard.press("Tab")
    assert focused(window)["tag"] == "SELECT", "the first field of the page itself, past the navigation"
    window.page.get_by_role("button", name="Sign out").press("Enter")
    expect(window.page.get_by_label("API key")).to_be_visible()


def test_two_answers_stream_side_by_side_and_are_shown_as_text(show: Show, live: Live) -> None:
    """Held after the first word: it is there before the answer's end. What the model writes is never markup."""
    live.service.loop.call_soon_threadsafe(live.engine.gate.clear)
    window = show()
    window.sign_in(live.keys["acme"])
    window.go("/playground")
    page, second = window.page, live.versions[1]
    page.get_by_label("Prompt", exact=True).fill(f"{HELD} please")
    page.get_by_role("combobox", name="One version").fill(f"support@{second}")
    page.get_by_role("combobox", name="Another one").fill("support:prod")
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    base, one, other = (page.locator(f"#answer-{place} .text") for place in ("base", "one", "other"))
    expect(base).to_have_text("base ")
    expect(one).to_have_text(f"{second[:12]} ")
    expect(page.locator("#answer-one .where")).to_contain_text("route swapped")
    expect(page.locator("#answer-one")).to_have_attribute("aria-busy", "true")
    window.picture("playground-streaming")
    live.service.loop.call_soon_threadsafe(live.engine.gate.set)
    expect(one).to_have_text(f"{second[:12]} answers <b>so</b>.")
    expect(other).to_have_text(f"{second[:12]} answers <b>so</b>.")
    assert one.locator("b").count() == 0
    expect(page.locator("#answer-one .same")).to_have_text("Another answer than the first.")
    expect(page.locator("#answer-one .figures-line")).to_contain_text("3 tokens for a prompt of 4")
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    window.picture("playground-answers")
    page.get_by_role("combobox", name="Another one").fill("no-such-adapter")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer-other .problem")).to_contain_text("no adapter no-such-adapter")
    expect(one).to_contain_text("so")


def test_stopping_a_playground_stops_the_service_too(show: Show, live: Live) -> None:
    live.service.loop.call_soon_threadsafe(live.engine.gate.clear)
    window = show("narrow")
    window.sign_in(live.keys["bloom"])
    window.go("/playground")
    page = window.page
    page.get_by_label("Prompt", exact=True).fill(HELD)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer-base .text")).to_have_text("base ")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#answer-base .problem")).to_have_text("Stopped.")
    window.go("/traffic")
    expect(page.locator("#windows tr").first).to_contain_text("1")
    expect(page.locator("#now .figure").first).to_have_text("0")
    with live.service.client(live.keys["bloom"]) as client:
        (row,) = client.traffic().tenants
    assert (row.running, row.windows[2].cancelled, row.windows[2].answered) == (0, 1, 0)


def test_traffic_keeps_itself_fresh_and_its_charts_can_be_read_by_keyboard(show: Show, live: Live) -> None:
    window = show()
    window.sign_in(OPERATOR)
    window.go("/traffic")
    page, hour = window.page, window.page.locator("#windows tr").last.locator("td").first
    before = int(hour.inner_text())
    assert live.ask(live.keys["acme"], "nothing") == "RemoteNotFound"
    live.ask(live.keys["acme"], "sales")
    expect(hour).to_have_text(str(before + 2))
    expect(page.locator("#tenants tr").filter(has_text="acme")).to_contain_text("not found")
    curve = page.locator("#requests-chart path.c1")
    expect(curve).to_have_attribute("d", re.compile("^M[0-9. ]+L"))
    page.locator("#requests-chart").focus()
    page.keyboard.press("End")
    expect(page.locator("#requests-reading")).to_contain_text("s ago: ended")
    page.locator("#tenants").get_by_role("link", name="acme").click()
    expect(page.locator("h1")).to_have_text("Traffic of acme")
    assert page.locator("#tenants").count() == 0


def test_the_map_shows_slots_and_merged_engines_and_a_version_is_pinned_and_evicted(show: Show, live: Live) -> None:
    window = show()
    window.sign_in(OPERATOR)
    live.ask(live.keys["acme"], f"support@{live.versions[1]}")
    window.go("/residency")
    page, wanted = window.page, live.versions[2][:12]
    expect(page.locator("#slots li")).to_have_count(2)
    expect(page.locator("#slots")).to_contain_text("acme/support")
    expect(page.locator("#merged tr")).to_contain_text("serving")
    row = page.locator("#adapters tr").filter(has_text=wanted)
    row.get_by_role("button", name="Pin").press("Enter")
    expect(page.get_by_role("status")).to_contain_text("stays in host memory")
    expect(row.get_by_role("button", name="Unpin")).to_be_visible()
    row.get_by_role("link", name="Evict").press("Enter")
    expect(page.locator("h1")).to_have_text("Evict this version?")
    page.get_by_role("button", name="Evict").press("Enter")
    expect(page.get_by_role("status")).to_contain_text("was evicted")
    expect(row).to_have_count(0)
    with live.service.client() as client:
        assert wanted not in {held.version[:12] for held in client.residency()}


def test_a_tenant_sees_its_own_traffic_and_no_map(show: Show, live: Live) -> None:
    window = show()
    window.sign_in(live.keys["bloom"])
    expect(window.page.get_by_role("link", name="Residency")).to_have_count(0)
    window.go("/traffic")
    assert "acme" not in window.page.content()
    for path in ("/traffic?tenant=acme", "/residency", "/residency/evict?tenant=acme&adapter=sales&version=x"):
        window.go(path)
        expect(window.page.locator("h1")).to_have_text(re.compile("Not (found|allowed)"))
    # The browser itself notes the two refusals; nothing else.
    window.complaints[:] = [line for line in window.complaints if "status of 40" not in line]


def test_an_adapters_versions_are_newest_first_and_one_click_from_being_tried(show: Show, live: Live) -> None:
    """The registry lists them by digest."""
    window = show("narrow")
    window.sign_in(live.keys["acme"])
    window.go("/tenants/acme/adapters/support")
    page, newest = window.page, live.versions[2]
    links = page.locator("table a code").all_inner_texts()
    wanted = [digest[:12] for digest in reversed(live.versions)]
    assert [text for text in links if text in wanted] == wanted
    page.get_by_role("link", name=newest[:12]).first.click()
    page.get_by_role("link", name="Try it").click()
    expect(page.get_by_role("combobox", name="One version")).to_have_value(f"support@{newest}")


def test_a_page_that_cannot_be_refreshed_says_since_when_and_goes_on_by_itself(show: Show, live: Live) -> None:
    window = show()
    window.sign_in(OPERATOR)
    window.go("/traffic")
    page, note = window.page, window.page.locator("main > .flash.bad")
    page.route(
        "**/traffic", lambda route: route.fulfill(status=503, json={"message": "no service answers at serving:1"})
    )
    expect(note).to_contain_text("Not fresh since")
    expect(note).to_contain_text("no service answers at serving:1")
    window.picture("traffic-stale")
    page.unroute("**/traffic")
    expect(note).to_have_count(0)
    window.complaints.clear()  # the browser notes the 503 itself
