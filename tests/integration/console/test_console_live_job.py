"""Jobs in the console while they train: a real trainer, a real worker, the console as `graft console` starts it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.console.console_browser import Browser, readable
from tests.integration.trainer.trainer_process import Caller, TrainerProcess, rows

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Live:
    """A trainer and a console on it."""

    trainer: TrainerProcess
    acme: Caller
    url: str

    def visit(self, caller: Caller) -> Browser:
        browser = Browser(httpx.Client(base_url=self.url, timeout=60, trust_env=False))
        assert browser.sign_in(caller.client().trainer._metadata[0][1].removeprefix("Bearer ")).status_code == 303
        return browser


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, miniature: Path) -> Iterator[Live]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
    home = tmp_path_factory.mktemp("console-trainer")
    with TrainerProcess(home, miniature) as trainer, (home / "console.log").open("wb") as log:
        command = [sys.executable, "-m", "graftwork.cli.main", "--home", str(home / "none"), "--json", "console"]
        process = subprocess.Popen(
            command, env=clean | {"GRAFT_TRAINER": trainer.address}, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        try:
            said = ""
            while "}" not in said:
                line = process.stdout.readline()
                assert line, (home / "console.log").read_text()
                said += line
            yield Live(trainer, trainer.tenant("acme"), json.loads(said)["console"])
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
        assert "gw_acme_" not in (home / "console.log").read_text(), "a key is in the log"


@dataclass(frozen=True)
class Seen:
    """A server-sent event."""

    name: str
    number: int
    data: Any


def watch(browser: Browser, path: str, **headers: str) -> Iterator[Seen]:
    """Yields events as a browser would take them."""
    with browser.http.stream("GET", path, headers={"accept": "text/event-stream"} | headers, timeout=240) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                yield Seen(fields["event"], int(fields.get("id", 0)), json.loads(fields["data"]))
                fields = {}


def test_a_job_is_cancelled_goes_on_and_its_curve_comes_while_it_trains_and_whole(live: Live) -> None:
    browser = live.visit(live.acme)
    job = live.acme.create(live.acme.upload(rows()).name, anyway=True)
    path = f"/{job.name}"
    assert "counter" in browser.page(path)
    events = watch(browser, f"{path}/events")
    assert any(event.name == "step" for event in events), "it trains"
    assert "nothing of it is published" in browser.page(f"{path}/cancel")
    browser.change(f"{path}/cancel")
    assert [event.data["state"] for event in events if event.name == "state"][-1] == "cancelled"
    assert "Go on from its checkpoint" in browser.page(path)
    assert "goes on from step" in browser.change(f"{path}/resume")

    seen = list(watch(browser, f"{path}/events"))
    assert seen[-1].name == "end"
    assert [event.number for event in seen[:-1]] == list(range(1, len(seen)))
    total = live.acme.get(job.name).total_steps
    assert {event.data["step"] for event in seen if event.name == "step"} == set(range(1, total + 1))
    held_out = [event.data for event in seen if event.name == "evaluated"]
    assert held_out[0]["base"]
    assert held_out[-1]["loss"] < held_out[0]["loss"]
    assert [event.data["state"] for event in seen if event.name == "state"][-1] == "succeeded"
    again = list(watch(browser, f"{path}/events", **{"last-event-id": "5"}))
    assert [event.number for event in again] == [event.number for event in seen[5:]]

    version = live.acme.get(job.name).version
    assert version[:12] in browser.page(path)
    assert f"{held_out[-1]['loss']:.4f}" in browser.page("/jobs")
    assert "job" in browser.page(f"/tenants/acme/adapters/counter/versions/{version}")
    bloom = live.visit(live.trainer.tenant("bloom"))
    assert bloom.get(path).status_code == 404
    (refused,) = list(watch(bloom, f"{path}/events"))[-1:]
    assert (refused.name, refused.data["again"]) == ("trouble", False)
    assert "counter" not in bloom.page("/jobs")


def test_a_job_is_checked_and_started_from_a_stored_data_set_once(live: Live) -> None:
    browser = live.visit(live.acme)
    dataset = live.acme.upload(rows(30)).name
    assert "30" in browser.page("/datasets")
    assert "Train on it" in browser.page(f"/{dataset}")
    form = f"/{dataset}/train"
    assert "Start training" not in browser.page(form)
    wrong = browser.page(f"{form}?adapter=starter&epochs=many")
    assert "'many' is no number" in wrong
    assert "Start training" not in wrong
    refused = browser.page(f"{form}?adapter=starter&learning_rate=9")
    assert "learning_rate" in refused
    assert "Start training" not in refused

    planned = browser.get(f"{form}?adapter=starter&max_steps=4").text
    text = readable(planned)
    assert "to train on" in text
    assert "max_steps 4 you" in text
    once = re.search(r'name="once" value="(\w+)"', planned)
    assert once
    jobs = {browser.send(form, adapter="starter", max_steps="4", once=once[1]).headers["location"] for _ in range(2)}
    assert len(jobs) == 1, "a page that is sent twice is one job"
    (job,) = jobs
    assert "is queued" in browser.page(job)
    browser.change(f"{job}/cancel")
    again = browser.change(form, adapter="Not A Name", max_steps="4", once="another")
    assert "is no adapter id" in again
    bloom = live.visit(live.trainer.tenant("violet"))
    assert bloom.get(form).status_code == 404
    assert bloom.send(form, adapter="starter", once="mine").headers["location"].startswith(form), "back to the form"
