"""The console's process with TLS on both sides, and the settings that it refuses."""

import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.console.console_browser import Browser, readable
from tests.integration.registry.registry_process import OPERATOR, RegistryProcess
from tests.unit.graftwork.certificates import Authority, Pair


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ca")


@contextmanager
def console(folder: Path, authority: Authority, **environment: str) -> Iterator[Browser]:
    """On `python -m graftwork.console` over HTTPS, with these settings."""
    page = authority.issue("console")
    address = folder / "console.address"
    process = subprocess.Popen(
        [sys.executable, "-m", "graftwork.console"],
        env=clean()
        | {
            "GRAFT_CONSOLE_TLS_CERTIFICATE": str(page.certificate),
            "GRAFT_CONSOLE_TLS_KEY": str(page.key),
            "GRAFT_CONSOLE_ADDRESS_FILE": str(address),
        }
        | environment,
    )
    try:
        deadline, pause = time.monotonic() + 60, threading.Event()
        while not address.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            pause.wait(0.05)
        with httpx.Client(
            base_url=f"https://{address.read_text().strip()}",
            verify=ssl.create_default_context(cafile=authority.pair.certificate),
            trust_env=False,
            timeout=60,
        ) as client:
            yield Browser(client)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def registry(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """Speaks TLS, and asks for a certificate that its authority signed (mTLS)."""
    service = authority.issue("service")
    running = RegistryProcess(
        tmp_path_factory.mktemp("registry"),
        GRAFT_REGISTRY_TLS_CERTIFICATE=str(service.certificate),
        GRAFT_REGISTRY_TLS_KEY=str(service.key),
        GRAFT_REGISTRY_TLS_CLIENT_CA=str(authority.pair.certificate),
    )
    yield running
    running.stop()


def identity(pair: Pair) -> dict[str, str]:
    return {"GRAFT_TLS_CERTIFICATE": str(pair.certificate), "GRAFT_TLS_KEY": str(pair.key)}


def test_without_a_certificate_that_services_ask_for_the_console_says_what_is_missing(
    tmp_path: Path, authority: Authority, registry: RegistryProcess
) -> None:
    stranger = Authority(tmp_path, "another-ca").issue("foreign")
    trusting = {
        "GRAFT_CONSOLE_TRAINER": registry.address,
        "GRAFT_CONSOLE_TLS_CA": str(authority.pair.certificate),
    }
    for name, own in {"none": {}, "foreign": identity(stranger)}.items():
        folder = tmp_path / name
        folder.mkdir()
        with console(folder, authority, **trusting, **own) as browser:
            answer = browser.sign_in(OPERATOR)
            assert answer.status_code == 503, name
            assert "GRAFT_TLS_CERTIFICATE and GRAFT_TLS_KEY" in readable(answer.text), name


def test_a_certificate_that_is_replaced_is_shown_from_the_next_page_on(
    tmp_path: Path, authority: Authority, registry: RegistryProcess
) -> None:
    good, foreign = authority.issue("renewed"), Authority(tmp_path, "another-ca").issue("foreign")
    own = Pair(tmp_path / "own.pem", tmp_path / "own.key")

    def replace(pair: Pair) -> None:
        shutil.copyfile(pair.certificate, own.certificate)
        shutil.copyfile(pair.key, own.key)

    replace(good)
    settings = {
        "GRAFT_CONSOLE_TRAINER": registry.address,
        "GRAFT_CONSOLE_TLS_CA": str(authority.pair.certificate),
        **identity(own),
    }
    with console(tmp_path, authority, **settings) as browser:
        browser.sign_in(OPERATOR)
        browser.page("/tenants")
        replace(foreign)
        assert browser.get("/tenants").status_code == 503
        replace(good)
        browser.page("/tenants")


def test_another_authority_than_the_services_is_named_as_the_cause(
    tmp_path: Path, authority: Authority, registry: RegistryProcess
) -> None:
    another = Authority(tmp_path, "another-ca").pair.certificate
    settings = {"GRAFT_CONSOLE_TRAINER": registry.address, "GRAFT_CONSOLE_TLS_CA": str(another)}
    with console(tmp_path, authority, **settings) as browser:
        answer = browser.sign_in(OPERATOR)
    assert answer.status_code == 503
    assert "is not signed by the authority" in readable(answer.text)


def test_browsers_and_services_are_spoken_to_over_tls(
    tmp_path: Path, authority: Authority, registry: RegistryProcess
) -> None:
    settings = {
        "GRAFT_CONSOLE_TRAINER": registry.address,
        "GRAFT_CONSOLE_TLS_CA": str(authority.pair.certificate),
        **identity(authority.issue("console-as-client")),
    }
    with console(tmp_path, authority, **settings) as browser:
        _is_whole(browser)


def _is_whole(browser: Browser) -> None:
    answer = browser.sign_in(OPERATOR)
    assert answer.headers["set-cookie"].startswith("__Host-")
    assert "Secure" in answer.headers["set-cookie"]
    assert "No tenants yet" in browser.page("/tenants")
    # Streams have a channel of their own; the registry alone has no jobs, and says so over TLS.
    events = browser.get("/tenants/acme/jobs/x/events", accept="text/event-stream").text
    assert "does not know this call" in events


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"GRAFT_CONSOLE_HOST": "0.0.0.0"}, "unencrypted"),
        ({"GRAFT_CONSOLE_PORT": "many"}, "GRAFT_CONSOLE_PORT"),
        ({"GRAFT_CONSOLE_TLS_CERTIFICATE": "/nowhere.pem"}, "key"),
    ],
)
def test_settings_that_cannot_work_end_the_process_with_the_reason(settings: dict[str, str], told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "graftwork.console"], env=clean() | settings, capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (1, 2)
    assert told in done.stderr


def test_the_command_refuses_another_host_without_tls(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "graftwork.cli.main", "--home", str(tmp_path), "console", "--host", "0.0.0.0"],
        env=clean(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "unencrypted" in done.stderr
