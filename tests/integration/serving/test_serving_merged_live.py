"""Merged engines beside a real backbone: promotion under load, answers as before, and a killed engine that loses no request."""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import psutil
import pytest

from adapter_store import Provenance
from graftwork.v1 import serving_pb2
from tests.integration.serving.serving_world import Answer, Service, World, wait_until

pytestmark = pytest.mark.slow
GIB = 2**30
PROMPTS = ("abc", "hello there", "x" * 40)


@pytest.fixture(scope="module")
def merging(run_service: Callable[..., Service]) -> Service:
    sizes = {"merged_budget_bytes": 4 * GIB, "max_merged": 1, "merged_kv_cache_gib": 0.1}
    return run_service(**sizes, merged_auto_tokens_per_minute=1).ready()


def merged(service: Service) -> dict[str, serving_pb2.Merged]:
    answer = service.stub.ListResidency(serving_pb2.ListResidencyRequest(), metadata=service.as_operator(), timeout=30)
    return {row.tenant: row for row in answer.merged}


def promote(service: Service, tenant: str) -> serving_pb2.Merged:
    request = serving_pb2.PromoteRequest(tenant=tenant, model="task", wait=True)
    row = service.stub.Promote(request, metadata=service.as_operator(), timeout=300)
    assert row.state == serving_pb2.MERGED_STATE_SERVING, (row, service.log())
    return row  # type: ignore[no-any-return]


def demote(service: Service, tenant: str) -> None:
    service.stub.Demote(
        serving_pb2.DemoteRequest(tenant=tenant, model="task"), metadata=service.as_operator(), timeout=30
    )


def over_http(service: Service, tenant: str, prompt: str, **more: Any) -> httpx.Response:
    body = {"model": "task", "prompt": prompt, "max_tokens": 24, "temperature": 0, **more}
    headers = {"authorization": f"Bearer {service.world.keys[tenant]}"}
    return httpx.post(f"{service.url}/v1/completions", json=body, headers=headers, timeout=120)


class Load:
    """Greedy requests of two tenants, over and over, each compared with what it should be."""

    def __init__(self, service: Service, expected: dict[tuple[str, str], str]) -> None:
        self._service, self._expected = service, expected
        self._ended = threading.Event()
        self.routes: set[int] = set()
        self.answered = 0
        self.wrong: list[object] = []

    def _run(self, tenant: str) -> None:
        while not self._ended.is_set():
            for prompt in PROMPTS:
                try:
                    answer = self._service.generate(tenant, "task", prompt, max_tokens=24)
                except grpc.RpcError as error:
                    self.wrong.append(error)
                    continue
                self.routes.add(answer.started.route)
                self.answered += 1
                if answer.text != self._expected[tenant, prompt]:
                    self.wrong.append((tenant, prompt, answer))

    def __enter__(self) -> "Load":
        self._pool = ThreadPoolExecutor(2)
        self._work = [self._pool.submit(self._run, tenant) for tenant in ("acme", "globex")]
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pool.shutdown()
        for work in self._work:
            work.result()


@pytest.fixture(scope="module")
def expected(merging: Service) -> dict[tuple[str, str], str]:
    answers = {(t, p): merging.generate(t, "task", p, max_tokens=24) for t in ("acme", "globex") for p in PROMPTS}
    assert {answer.started.route for answer in answers.values()} == {serving_pb2.ROUTE_SWAPPED}
    return {key: answer.text for key, answer in answers.items()}


@pytest.fixture
def promoted(merging: Service, expected: dict[tuple[str, str], str]) -> Iterator[serving_pb2.Merged]:
    yield promote(merging, "acme")
    demote(merging, "acme")
    wait_until("the merged engine is gone", lambda: "acme" not in merged(merging), 60)


def test_promotion_under_load_changes_no_answer(merging: Service, expected: dict[tuple[str, str], str]) -> None:
    """Not one request of either tenant is failed or answered otherwise while an engine comes, serves and goes."""
    before = alive(merging)
    with Load(merging, expected) as load:
        row = promote(merging, "acme")
        assert row.bytes > 0
        wait_until("requests go to it", lambda: serving_pb2.ROUTE_MERGED in load.routes, 60)
        assert merged(merging)["acme"].uses > 0
        demote(merging, "acme")
        wait_until("it is gone", lambda: "acme" not in merged(merging), 60)
        load.routes.clear()
        wait_until("requests go on through the slots", lambda: serving_pb2.ROUTE_SWAPPED in load.routes, 60)
    assert not load.wrong
    assert alive(merging) == before, "no process is left of it"
    assert not list((merging.cache / "merged").glob("*/*"))


def test_both_transports_answer_from_the_merged_engine(
    merging: Service, expected: dict[tuple[str, str], str], promoted: serving_pb2.Merged
) -> None:
    for prompt in PROMPTS:
        answer = merging.generate("acme", "task", prompt, max_tokens=24)
        assert (answer.started.route, answer.text) == (serving_pb2.ROUTE_MERGED, expected["acme", prompt])
        assert answer.started.version == promoted.version
        http = over_http(merging, "acme", prompt)
        assert (http.headers["x-graft-route"], http.headers["x-graft-version"]) == ("merged", promoted.version)
        assert http.json()["choices"][0]["text"] == expected["acme", prompt]
    other = merging.generate("globex", "task", PROMPTS[0], max_tokens=24)
    assert (other.started.route, other.text) == (serving_pb2.ROUTE_SWAPPED, expected["globex", PROMPTS[0]])


def test_a_killed_merged_engine_loses_no_request_that_had_not_begun(
    merging: Service, expected: dict[tuple[str, str], str]
) -> None:
    """SIGKILL in the middle: streams that had begun end with UNAVAILABLE, all others are answered by the adapter."""
    before = alive(merging)
    promote(merging, "acme")
    engine = [child for child in merging.children() if child.pid not in before and _is_engine(child)]
    assert engine
    begun = merging.start_generate("acme", "task", "y" * 100, max_tokens=300, ignore_eos=True)
    started = next(begun).started
    assert started.route == serving_pb2.ROUTE_MERGED
    engine[0].send_signal(signal.SIGSTOP)  # so that what comes now has certainly not begun when it dies
    waiting = [merging.start_generate("acme", "task", prompt, max_tokens=24) for prompt in PROMPTS]
    with ThreadPoolExecutor(1) as pool:
        http = pool.submit(over_http, merging, "acme", PROMPTS[0])
        wait_until("all of them are with it", lambda: merged(merging)["acme"].users == len(PROMPTS) + 2, 30)
        os.kill(engine[0].pid, signal.SIGKILL)
        answers = [Answer.read(stream) for stream in waiting]
        over = http.result()
    assert [answer.text for answer in answers] == [expected["acme", prompt] for prompt in PROMPTS]
    assert {answer.started.route for answer in answers} == {serving_pb2.ROUTE_SWAPPED}
    assert (over.status_code, over.headers["x-graft-route"]) == (200, "swapped")
    assert over.json()["choices"][0]["text"] == expected["acme", PROMPTS[0]]
    with pytest.raises(grpc.RpcError) as cut:
        list(begun)
    assert cut.value.code() == grpc.StatusCode.UNAVAILABLE
    row = merged(merging)["acme"]
    assert row.failures == 1
    assert "died" in row.why
    assert merging.health() == 1, "the backbone serves on"
    demote(merging, "acme")
    wait_until("it is gone", lambda: "acme" not in merged(merging), 60)


def alive(service: Service) -> set[int]:
    """Ids of its processes."""
    return {child.pid for child in service.children() if child.status() != psutil.STATUS_ZOMBIE}


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_engine(process: psutil.Process) -> bool:
    return process.status() != psutil.STATUS_ZOMBIE and process.name().startswith("VLLM")


@pytest.mark.thorough
def test_a_new_version_is_cut_over_without_a_gap(merging: Service, world: World) -> None:
    """While requests go on, an alias's version is replaced, with room for one engine: each is answered by its own version, and
    none fails."""
    one = world.publish("initech", "moving", world.folders["acme"])
    world.store.aliases.set_route("initech", "moving", "prod", "merged", by="tests", reason="tests")
    two = world.store.versions.publish(
        "initech", "moving", world.folders["globex"], base=world.base, made=Provenance(made_by="tests")
    )
    texts = {
        version.version: merging.generate(tenant, "task", PROMPTS[0], max_tokens=24).text
        for version, tenant in ((one, "acme"), (two, "globex"))
    }
    assert len(set(texts.values())) == 2
    answers: list[Answer] = []

    def until(route: int, version: str) -> None:
        def answered() -> bool:
            answers.append(merging.generate("initech", "moving", PROMPTS[0], max_tokens=24))
            return (answers[-1].started.route, answers[-1].started.version) == (route, version)

        wait_until("answers come from there", answered, 240)

    until(serving_pb2.ROUTE_MERGED, one.version)
    begun = merging.start_generate("initech", "moving", "y" * 100, max_tokens=200, ignore_eos=True)
    assert next(begun).started.version == one.version
    world.store.aliases.set("initech", "moving", "prod", two.version, by="tests", reason="tests")
    until(serving_pb2.ROUTE_SWAPPED, two.version)
    assert list(begun)[-1].finished.usage.completion_tokens == 200, "what had begun on the old one ends there"
    until(serving_pb2.ROUTE_MERGED, two.version)
    assert all(answer.text == texts[answer.started.version] for answer in answers)
    versions = [answer.started.version for answer in answers]
    assert versions == sorted(versions, key=[one.version, two.version].index), "never back"
    world.store.aliases.set_route("initech", "moving", "prod", "swapped", by="tests", reason="tests")
    wait_until("it is gone", lambda: "initech" not in merged(merging), 120)


@pytest.mark.thorough
def test_traffic_alone_wins_an_engine(merging: Service, world: World, expected: dict[tuple[str, str], str]) -> None:
    """Of an alias whose route is auto, and whose requests take longer than they should; the answers stay what they were."""

    def answered(route: int) -> bool:
        answer = merging.generate("acme", "task", PROMPTS[0], max_tokens=24)
        assert answer.text == expected["acme", PROMPTS[0]]
        return bool(answer.started.route == route)

    world.store.aliases.set_route("acme", "task", "prod", "auto", first_token_ms=1, by="tests", reason="tests")
    wait_until("it is promoted, after two minutes of traffic", lambda: answered(serving_pb2.ROUTE_MERGED), 500)
    row = merged(merging)["acme"]
    assert list(row.wanted_by) == ["task:prod (auto)"]
    assert "target 1 ms, so they count twice" in row.promoted_because
    world.store.aliases.set_route("acme", "task", "prod", "swapped", by="tests", reason="tests")
    wait_until("it is gone", lambda: answered(serving_pb2.ROUTE_SWAPPED) and "acme" not in merged(merging), 120)


CHANGES = 50
"""Of each of four seeds, 200 in all: with two cores to themselves about seven minutes each."""


@pytest.mark.thorough
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [20, 21, 22, 23])
def test_promotions_and_demotions_at_random_change_no_answer(
    merging: Service, expected: dict[tuple[str, str], str], seed: int
) -> None:
    """Under load, at any moment of an engine's life, of two versions that have room for one engine."""
    draw = random.Random(seed)
    before, served = alive(merging), 0
    with Load(merging, expected) as load:
        for _ in range(CHANGES):
            served += change(merging, draw)
            enough = load.answered + draw.randrange(10)
            wait_until("more answers", lambda enough=enough: load.answered >= enough or bool(load.wrong), 300)
            assert not load.wrong, f"seed {seed}"
        for tenant in list(merged(merging)):
            demote(merging, tenant)
        wait_until("both are gone", lambda: not merged(merging), 120)
    assert not load.wrong, f"seed {seed}"
    assert serving_pb2.ROUTE_MERGED in load.routes
    assert served > 2, "most of it would not have been tried"
    assert alive(merging) == before, "no process is left of it"


def change(service: Service, draw: random.Random) -> bool:
    """Promotes or demotes one of two; returns whether one came to serve by that."""
    tenant = draw.choice(("acme", "globex"))
    if tenant in merged(service) and draw.random() < 0.6:
        try:
            demote(service, tenant)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:  # it has made room for the other one since
                raise
        return False
    return _promote_or_not(service, tenant, wait=draw.random() < 0.5)


def _promote_or_not(service: Service, tenant: str, *, wait: bool) -> bool:
    """Asks for an engine; returns whether it serves by the time of the answer. It need not: the other one may have the room."""
    request = serving_pb2.PromoteRequest(tenant=tenant, model="task", wait=wait)
    try:
        row = service.stub.Promote(request, metadata=service.as_operator(), timeout=60)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:  # wanted still
            raise
        return False
    return bool(row.state == serving_pb2.MERGED_STATE_SERVING)


@pytest.mark.thorough
def test_a_stop_ends_merged_engines_too(run_service: Callable[..., Service]) -> None:
    """SIGTERM while one serves and while one is on its way: exit 0, and no process is left."""
    service = run_service(merged_budget_bytes=4 * GIB, merged_kv_cache_gib=0.1).ready()
    promote(service, "acme")
    request = serving_pb2.PromoteRequest(tenant="globex", model="task")
    service.stub.Promote(request, metadata=service.as_operator(), timeout=30)
    wait_until(
        "the other one is starting", lambda: merged(service)["globex"].state == serving_pb2.MERGED_STATE_STARTING, 120
    )
    processes = service.children()
    assert service.signal(signal.SIGTERM) == 0, service.log()
    # Not at once: multiprocessing's resource trackers end by themselves when their pipe does.
    wait_until("none of its processes is left", lambda: not any(_runs(process) for process in processes), 20)
