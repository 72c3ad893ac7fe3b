"""How the SDK calls: repeats, time limits, cancellation, keys. Both clients, over a real socket."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import graftwork
from graftwork import AsyncClient, Client, Message, Recipe, Tenant
from graftwork.v1 import common_pb2, registry_pb2, serving_pb2, trainer_pb2
from tests.unit.graftwork.certificates import Authority
from tests.unit.graftwork.sdk_services import Answer, Script, give, refuse, running

UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
KEY = "gw_acme_secret"
ACME = registry_pb2.Tenant(name="tenants/acme", number=3, weight=2)


class Caller:
    """Runs one call of either client."""

    def __init__(self, kind: str, address: str) -> None:
        self.kind, self.address = kind, address

    def __call__(self, act: Callable[[Any], Any], **settings: Any) -> Any:
        """`act` makes the call; an async client's answer is awaited, and an async iterator read into a list."""
        settings = {"trainer": self.address, "serving": self.address, "api_key": KEY} | settings
        if self.kind == "blocking":
            with Client(**settings) as client:
                got = act(client)
                return list(got) if isinstance(got, Iterator) else got

        async def run() -> Any:
            async with AsyncClient(**settings) as client:
                got = act(client)
                return [item async for item in got] if hasattr(got, "__aiter__") else await got

        return asyncio.run(run())


@pytest.fixture(params=["blocking", "asynchronous"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def scripted(kind: str, act: Callable[[Any], Any], answers: dict[str, list[Answer]], **settings: Any) -> Any:
    """Returns the call's result, or the error that it raised, and what the services saw."""
    script = Script(answers)
    with running(script) as address:
        try:
            return Caller(kind, address)(act, **settings), script
        except (graftwork.RemoteError, graftwork.WaitTimedOut) as error:
            return error, script


def test_a_change_is_repeated_under_the_same_id_until_it_is_answered(kind: str) -> None:
    answers = {"CreateTenant": [refuse(UNAVAILABLE, "starting"), refuse(UNAVAILABLE, "starting"), give(ACME)]}
    made, script = scripted(kind, lambda client: client.tenants.create("acme"), answers)
    assert (made.id, made.number, made.weight) == ("acme", 3, 2)
    sent = script.requests["CreateTenant"]
    assert len(sent) == 3
    assert len({request.request_id for request in sent}) == 1
    assert sent[0].request_id
    assert {seen["authorization"] for seen in script.metadata} == {f"Bearer {KEY}"}


def test_two_changes_have_two_ids(kind: str) -> None:
    script = Script({"CreateTenant": [give(ACME)]})
    with running(script) as address:
        for _ in range(2):
            Caller(kind, address)(lambda client: client.tenants.create("acme"))
    assert len({request.request_id for request in script.requests["CreateTenant"]}) == 2


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.NOT_FOUND],
)
def test_what_cannot_pass_is_not_repeated(kind: str, code: grpc.StatusCode) -> None:
    error, script = scripted(kind, lambda client: client.tenants.get("acme"), {"GetTenant": [refuse(code, "no")]})
    assert len(script.requests["GetTenant"]) == 1
    assert (str(error), error.request_id) == ("no", "r-1")


def test_retries_end_and_none_can_be_asked_for(kind: str) -> None:
    answers = {"GetTenant": [refuse(UNAVAILABLE, "starting")]}
    error, script = scripted(kind, lambda client: client.tenants.get("acme"), answers, retries=1)
    assert isinstance(error, graftwork.RemoteUnavailable)
    assert len(script.requests["GetTenant"]) == 2
    _, script = scripted(kind, lambda client: client.tenants.get("acme"), answers, retries=0)
    assert len(script.requests["GetTenant"]) == 1


def test_a_time_that_the_service_names_beyond_the_callers_is_not_waited_for(kind: str) -> None:
    answers = {"Generate": [refuse(EXHAUSTED, "over its requests per minute", retry_after_ms=50_000)]}
    error, script = scripted(kind, lambda client: client.generate("hi", model="a", timeout=20), answers)
    assert isinstance(error, graftwork.RemoteExhausted)
    assert error.retry_after_seconds == 50
    assert len(script.requests["Generate"]) == 1


def test_the_time_limit_is_of_all_tries_and_reaches_the_service(kind: str) -> None:
    left: list[float] = []

    def slow(_: Any, context: grpc.ServicerContext) -> Any:
        left.append(context.time_remaining())
        return refuse(UNAVAILABLE, "busy", retry_after_ms=4000)(_, context)

    error, _ = scripted(kind, lambda client: client.tenants.get("acme"), {"GetTenant": [slow]}, timeout=6)
    assert isinstance(error, graftwork.RemoteUnavailable)
    assert all(seconds < 7 for seconds in left)  # of 60 by default; gRPC rounds a limit up on its way
    assert len(left) == 2  # a third one would begin 8 s after the first; the second may be 2 s late on a busy machine


def test_a_silent_service_is_given_up(kind: str) -> None:
    release = threading.Event()

    def silent(_: Any, context: grpc.ServicerContext) -> Any:
        release.wait(60)
        return ACME

    script = Script({"GetTenant": [silent]})
    with running(script) as address:
        try:
            with pytest.raises(graftwork.RemoteDeadline, match=r"GetTenant was not answered within 3 s.*graft status"):
                Caller(kind, address)(lambda client: client.tenants.get("acme"), timeout=3)
        finally:
            release.set()
    assert len(script.requests["GetTenant"]) == 1


def test_pages_are_read_to_the_last(kind: str) -> None:
    pages = {
        "": registry_pb2.ListTenantsResponse(tenants=[ACME], next_page_token="2"),
        "2": registry_pb2.ListTenantsResponse(tenants=[registry_pb2.Tenant(name="tenants/bloom")]),
    }
    found, _ = scripted(
        kind,
        lambda client: client.tenants.list(),
        {"ListTenants": [lambda request, context: pages[request.page_token]]},
    )
    assert [tenant.id for tenant in found] == ["acme", "bloom"]
    assert all(isinstance(tenant, Tenant) for tenant in found)


def test_an_upload_begins_again_from_its_first_byte(kind: str) -> None:
    done = common_pb2.Dataset(name="tenants/acme/datasets/ds-1", rows=2)
    seen: list[tuple[int, int]] = []
    rows = [{"instruction": "a", "response": "é"}, {"instruction": "b", "response": "c"}]
    made, script = scripted(
        kind,
        lambda client: client.datasets.upload(rows, progress=lambda sent, total: seen.append((sent, total))),
        {"UploadDataset": [refuse(UNAVAILABLE, "away"), give(done)]},
    )
    assert made.id == "ds-1"
    first, second = script.requests["UploadDataset"]
    assert first == second
    body = b"".join(message.chunk for message in second)
    assert body.decode().count("\n") == 2
    assert "é" in body.decode()
    assert seen == [(len(body), len(body))] * 2


def test_refused_rows_come_with_their_lines(kind: str) -> None:
    report = trainer_pb2.DatasetReport(rows=3, wrong_rows=1)
    report.findings.add(level=common_pb2.Finding.LEVEL_ERROR, code="no-response", message="no response", lines=[2])

    def refused(_: Any, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("x-request-id", "r-1"), ("graft-findings-bin", report.SerializeToString())))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "1 of 3 rows cannot be used")

    error, _ = scripted(kind, lambda client: client.datasets.upload([]), {"UploadDataset": [refused]})
    assert isinstance(error, graftwork.RowsRefused)
    assert isinstance(error, graftwork.RemoteInvalid)
    assert (error.rows, error.wrong_rows, error.findings[0].lines) == (3, 1, (2,))
    assert error.findings[0].level is graftwork.Level.ERROR


def test_a_job_is_created_once_however_often_it_is_asked_for(kind: str) -> None:
    job = trainer_pb2.Job(name="tenants/acme/jobs/j", state=trainer_pb2.JOB_STATE_QUEUED)
    answers = {"CreateJob": [refuse(UNAVAILABLE, "away"), give(job)]}
    recipe = Recipe(rank=4, target_modules=("q_proj",), max_steps=0, learning_rate=1e-3)
    made, script = scripted(kind, lambda client: client.jobs.create("ds-1", "support", recipe=recipe), answers)
    assert made.state is graftwork.JobState.QUEUED
    first, second = script.requests["CreateJob"]
    assert first == second
    assert first.idempotency_key
    assert (first.parent, first.dataset) == ("tenants/acme", "tenants/acme/datasets/ds-1")
    assert Recipe.of(first.recipe) == recipe
    assert not first.recipe.HasField("seed")


def watched(*numbers: int, after: str) -> Answer:
    """A watch that gives these events and then ends so."""

    def answer(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for number in numbers:
            yield trainer_pb2.JobEvent(number=number, checkpoint_saved=trainer_pb2.CheckpointSaved(step=number))
        if after == "lost":
            context.abort(UNAVAILABLE, "going down")

    return answer


def test_a_watch_goes_on_behind_the_last_event_when_the_trainer_comes_back(kind: str) -> None:
    answers = {"WatchJob": [watched(1, 2, after="lost"), watched(after="lost"), watched(3, after="end")]}
    events, script = scripted(kind, lambda client: client.jobs.watch("j"), answers)
    assert [(event.number, event.step) for event in events] == [(1, 1), (2, 2), (3, 3)]
    assert [request.after for request in script.requests["WatchJob"]] == [0, 2, 2]


def test_a_wait_that_takes_too_long_says_that_the_job_goes_on(kind: str) -> None:
    job = trainer_pb2.Job(name="tenants/acme/jobs/j", state=trainer_pb2.JOB_STATE_RUNNING, last_event=7)

    def endless(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(60)
        yield from ()

    def wait(client: Any) -> Any:
        if isinstance(client, Client):
            return client.jobs.get("j").wait(timeout=0.2)

        async def waited() -> Any:
            return await (await client.jobs.get("j")).wait(timeout=0.2)

        return waited()

    error, script = scripted(kind, wait, {"GetJob": [give(job)], "WatchJob": [endless]})
    assert isinstance(error, graftwork.WaitTimedOut)
    assert "goes on" in str(error)
    assert script.requests["WatchJob"][0].after == 7


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "GATED"])
def test_the_result_of_a_job_that_did_not_succeed_is_an_error_that_holds_the_job(kind: str, state: str) -> None:
    job = trainer_pb2.Job(name="tenants/acme/jobs/j", state=f"JOB_STATE_{state}", message="no better than the base")

    def result(client: Any) -> Any:
        if isinstance(client, Client):
            return client.jobs.get("j").result()

        async def awaited() -> Any:
            return await (await client.jobs.get("j")).result()

        return awaited()

    script = Script({"GetJob": [give(job)], "WatchJob": [watched(after="end")]})
    with running(script) as address, pytest.raises(graftwork.JobNotSucceeded, match="no better than the base") as found:
        Caller(kind, address)(result)
    assert found.value.job.state.name == state
    assert found.value.job.state.is_final


def pieces(*texts: str) -> list[serving_pb2.GenerateResponse]:
    started = serving_pb2.GenerateStarted(request_id="r", version="d" * 64, route="ROUTE_SWAPPED", tier="TIER_HOST")
    usage = common_pb2.Usage(prompt_tokens=5, completion_tokens=len(texts))
    return [
        serving_pb2.GenerateResponse(started=started),
        *(serving_pb2.GenerateResponse(text=text) for text in texts),
        serving_pb2.GenerateResponse(finished=serving_pb2.GenerateFinished(finish_reason="stop", usage=usage)),
    ]


def test_an_answer_is_put_together(kind: str) -> None:
    answers = {"Generate": [refuse(UNAVAILABLE, "starting"), lambda *_: iter(pieces("Dear ", "Tisis"))]}
    chat = [Message("system", "Be kind."), Message("user", "greet")]
    got, script = scripted(
        kind, lambda client: client.generate(chat, model="greeting", temperature=0, stop=["\n"]), answers
    )
    assert (got.text, got.version, got.route, got.tier) == ("Dear Tisis", "d" * 64, "swapped", "host")
    assert (got.prompt_tokens, got.completion_tokens, got.finish_reason) == (5, 2, "stop")
    sent = script.requests["Generate"][1]
    assert (sent.parent, sent.model) == ("tenants/acme", "greeting")
    assert [turn.role for turn in sent.chat.messages] == ["system", "user"]
    assert sent.sampling.HasField("temperature")
    assert not sent.sampling.HasField("max_tokens")


def test_an_answer_that_broke_off_is_not_asked_for_again(kind: str) -> None:
    def broken(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from pieces("Dear ")[:2]
        context.abort(UNAVAILABLE, "engine died")

    error, script = scripted(kind, lambda client: client.generate("greet", model="greeting"), {"Generate": [broken]})
    assert isinstance(error, graftwork.RemoteUnavailable)
    assert len(script.requests["Generate"]) == 1


def test_leaving_a_stream_stops_the_generation(kind: str) -> None:
    def endless(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield pieces()[0]
        while context.is_active():
            yield serving_pb2.GenerateResponse(text="x")

    def first(client: Any) -> Any:
        if isinstance(client, Client):
            with client.stream("go") as stream:
                return str(next(stream))

        async def awaited() -> Any:
            async with client.stream("go") as stream:
                return str(await anext(stream))

        return awaited()

    script = Script({"Generate": [endless]})
    with running(script) as address:
        assert Caller(kind, address)(first) == "x"
        assert script.ended.wait(30)


def test_a_client_trusts_the_authority_that_it_names_and_shows_its_certificate(kind: str, tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ours"), Authority(tmp_path, "foreign")
    server, own, stranger = ours.issue("server"), ours.issue("client"), foreign.issue("stranger")
    pair = [(server.key.read_bytes(), server.certificate.read_bytes())]
    mutual = grpc.ssl_server_credentials(pair, ours.pair.certificate.read_bytes(), require_client_auth=True)
    with running(Script({"GetTenant": [give(ACME)]}), mutual) as address:

        def get(**settings: Any) -> Any:
            return Caller(kind, address)(lambda client: client.tenants.get("acme"), retries=0, **settings)

        shown = {"tls_certificate": own.certificate, "tls_key": own.key}
        assert get(tls_ca=ours.pair.certificate, **shown).id == "acme"
        for refused in (
            {},
            {"tls_ca": ours.pair.certificate},
            {"tls_ca": foreign.pair.certificate, **shown},
            {"tls_ca": ours.pair.certificate, "tls_certificate": stranger.certificate, "tls_key": stranger.key},
        ):
            with pytest.raises(graftwork.RemoteUnavailable):
                get(**refused)
        with pytest.raises(graftwork.TlsIncomplete):
            get(tls_ca=ours.pair.certificate, tls_key=own.key)
