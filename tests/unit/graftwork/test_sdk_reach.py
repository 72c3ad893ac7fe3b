"""Every call of the services can be made with either client, and both send the same; what they cannot make is on a list with its
reason. Over a real socket, against services that answer with nearly empty messages."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.message_factory import GetMessageClass

from graftwork import (
    AsyncClient,
    AuditProblemKind,
    Client,
    DatasetFigures,
    DatasetReport,
    MergedState,
    Role,
    SettingSource,
)
from graftwork.sdk.validation import DatasetReport as Report
from graftwork.signing import SigningKey
from graftwork.v1 import common_pb2, registry_pb2, serving_pb2, trainer_pb2
from tests.unit.graftwork.sdk_services import Answer, Script, give, running

LEFT_OUT: dict[str, str] = {}
"""Methods that the SDK does not offer, each with the reason."""
DIGEST, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
JOB = trainer_pb2.Job(name="tenants/acme/jobs/j", last_event=1, state=trainer_pb2.JOB_STATE_SUCCEEDED)
VERSION = registry_pb2.Version(name=f"tenants/acme/adapters/a/versions/{DIGEST}", manifest_sha256=OTHER)
RANDOM = re.compile(r'"(requestId|idempotencyKey)": "[0-9a-f]{32}"')
STREAMS: dict[str, list[Any]] = {
    "DownloadVersion": [registry_pb2.DownloadVersionResponse(version=VERSION)],
    "MergeVersion": [
        trainer_pb2.MergeVersionResponse(progress=trainer_pb2.MergeProgress(stage="merging")),
        trainer_pb2.MergeVersionResponse(report=trainer_pb2.MergeReport(version=VERSION.name, rows=3)),
    ],
    "ValidateDataset": [
        trainer_pb2.ValidateDatasetResponse(progress=trainer_pb2.ValidateDatasetProgress(done=1, total=2)),
        trainer_pb2.ValidateDatasetResponse(report=trainer_pb2.DatasetReport(rows=2, wrong_rows=1)),
    ],
    "VerifyAuditLog": [
        registry_pb2.VerifyAuditLogResponse(entries_read=5),
        registry_pb2.VerifyAuditLogResponse(report=registry_pb2.AuditReport(entries=9)),
    ],
    "WatchJob": [trainer_pb2.JobEvent(number=1, checkpoint_saved=trainer_pb2.CheckpointSaved(step=1))],
    "ReadJobLog": [trainer_pb2.ReadJobLogResponse(chunk=b"line\n")],
    "Generate": [
        serving_pb2.GenerateResponse(started=serving_pb2.GenerateStarted(version=DIGEST)),
        serving_pb2.GenerateResponse(text="x"),
        serving_pb2.GenerateResponse(finished=serving_pb2.GenerateFinished(finish_reason="stop")),
    ],
}
ANSWERS = {"CreateJob": JOB, "GetJob": JOB, "CancelJob": JOB, "ResumeJob": JOB, "GetVersion": VERSION}
METHODS = {
    method.name: method
    for module in (trainer_pb2, registry_pb2, serving_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def answer(name: str) -> Answer:
    if METHODS[name].server_streaming:
        return lambda request, context: iter(STREAMS[name])
    return give(ANSWERS.get(name) or GetMessageClass(METHODS[name].output_type)())


def peft_folder(root: Path) -> Path:
    folder = root / "peft"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "adapter_config.json").write_text("{}")
    return folder


def key_file(root: Path) -> Path:
    if not (root / "key").exists():
        SigningKey.create(root / "key")
    return root / "key"


def of_job(act: Callable[[Any], Any]) -> Callable[[Any, Path], Any]:
    """What is done with a job that was looked up."""

    def made(client: Any, root: Path) -> Any:
        if isinstance(client, Client):
            return act(client.jobs.get("j"))

        async def awaited() -> Any:
            got = act(await client.jobs.get("j"))
            return [item async for item in got] if hasattr(got, "__aiter__") else await got

        return awaited()

    return made


ROWS = [{"instruction": "a", "response": "b"}]
FIGURES = DatasetFigures.of(trainer_pb2.DatasetFigures(rows=9, tokens=90))
CALLS: dict[str, Callable[[Any, Path], Any]] = {
    "tenants.create": lambda client, root: client.tenants.create("acme"),
    "tenants.get": lambda client, root: client.tenants.get("acme"),
    "tenants.list": lambda client, root: client.tenants.list(),
    "tenants.update": lambda client, root: client.tenants.update("acme", weight=2),
    "tenants.create_key": lambda client, root: client.tenants.create_key("acme", "laptop"),
    "tenants.keys": lambda client, root: client.tenants.keys("acme"),
    "tenants.revoke_key": lambda client, root: client.tenants.revoke_key("acme", "0123"),
    "datasets.upload": lambda client, root: client.datasets.upload(ROWS),
    "datasets.validate": lambda client, root: client.datasets.validate(ROWS, preview_rows=2, sample_rows=5),
    "datasets.validate_stored": lambda client, root: client.datasets.validate_stored("ds-1", max_length=9),
    "datasets.get": lambda client, root: client.datasets.get("ds-1"),
    "datasets.list": lambda client, root: client.datasets.list(),
    "datasets.delete": lambda client, root: client.datasets.delete("ds-1", reason="old"),
    "jobs.explain_recipe": lambda client, root: client.jobs.explain_recipe(100),
    "jobs.estimate": lambda client, root: client.jobs.estimate(FIGURES),
    "jobs.create": lambda client, root: client.jobs.create("ds-1", "a"),
    "jobs.get": lambda client, root: client.jobs.get("j"),
    "jobs.list": lambda client, root: client.jobs.list(),
    "jobs.watch": lambda client, root: client.jobs.watch("j"),
    "jobs.log": lambda client, root: client.jobs.log("j", last_bytes=10),
    "jobs.info": lambda client, root: client.jobs.info(),
    "jobs.cancel": lambda client, root: client.jobs.cancel("j"),
    "jobs.resume": lambda client, root: client.jobs.resume("j"),
    "Job.refresh": of_job(lambda job: job.refresh()),
    "Job.watch": of_job(lambda job: job.watch()),
    "Job.wait": of_job(lambda job: job.wait()),
    "Job.result": of_job(lambda job: job.result()),
    "Job.log": of_job(lambda job: job.log()),
    "Job.cancel": of_job(lambda job: job.cancel()),
    "Job.resume": of_job(lambda job: job.resume()),
    "adapters.list": lambda client, root: client.adapters.list(),
    "adapters.get": lambda client, root: client.adapters.get("a"),
    "adapters.versions": lambda client, root: client.adapters.versions("a"),
    "adapters.version": lambda client, root: client.adapters.version("a", "canary"),
    "adapters.promote": lambda client, root: client.adapters.promote("a", DIGEST),
    "adapters.split": lambda client, root: client.adapters.split("a", {DIGEST: 9, OTHER: 1}),
    "adapters.roll_back": lambda client, root: client.adapters.roll_back("a"),
    "adapters.set_route": lambda client, root: client.adapters.set_route("a", "merged"),
    "adapters.history": lambda client, root: client.adapters.history("a"),
    "adapters.delete_alias": lambda client, root: client.adapters.delete_alias("a", "old"),
    "adapters.delete_version": lambda client, root: client.adapters.delete_version("a", DIGEST),
    "adapters.delete": lambda client, root: client.adapters.delete("a"),
    "adapters.verify": lambda client, root: client.adapters.verify("a"),
    "adapters.diff": lambda client, root: client.adapters.diff("a", "prod", OTHER, other_adapter="b"),
    "adapters.sign": lambda client, root: client.adapters.sign("a", key_file(root)),
    "adapters.register": lambda client, root: client.adapters.register("a", peft_folder(root)),
    "adapters.export": lambda client, root: client.adapters.export("a", root / f"out-{type(client).__name__}"),
    "adapters.merge": lambda client, root: client.adapters.merge("a", root / f"merged-{type(client).__name__}"),
    "serving.info": lambda client, root: client.serving.info(),
    "serving.residency": lambda client, root: client.serving.residency(),
    "serving.traffic": lambda client, root: client.serving.traffic(series=True),
    "serving.prefetch": lambda client, root: client.serving.prefetch("a"),
    "serving.pin": lambda client, root: client.serving.pin("a"),
    "serving.unpin": lambda client, root: client.serving.unpin("a"),
    "serving.evict": lambda client, root: client.serving.evict("a", DIGEST),
    "serving.drain": lambda client, root: client.serving.drain(),
    "serving.resume": lambda client, root: client.serving.resume(),
    "serving.merged": lambda client, root: client.serving.merged(),
    "serving.promote": lambda client, root: client.serving.promote("a:canary"),
    "serving.demote": lambda client, root: client.serving.demote("a"),
    "audit.verify": lambda client, root: client.audit.verify(),
    "audit.list": lambda client, root: client.audit.list(action="SetAlias"),
    "whoami": lambda client, root: client.whoami(),
    "generate": lambda client, root: client.generate("hi", model="a"),
}


def asked(kind: type, act: Callable[[Any, Path], Any], root: Path) -> tuple[Any, dict[str, list[Any]]]:
    """Makes a call with one client; returns its result, and the requests by method."""
    script = Script({name: [answer(name)] for name in METHODS})
    with running(script) as address:
        settings: dict[str, Any] = {"trainer": address, "serving": address, "api_key": "gw_acme_x"}
        if kind is Client:
            with Client(**settings) as client:
                got = act(client, root)
                return list(got) if isinstance(got, Iterator) else got, script.requests

        async def run() -> Any:
            async with AsyncClient(**settings) as client:
                got = act(client, root)
                return [item async for item in got] if isinstance(got, AsyncIterator) else await got

        return asyncio.run(run()), script.requests


def plain(requests: dict[str, list[Any]]) -> str:
    """Requests as text, without what is drawn by chance."""

    def written(sent: Any) -> str:
        return "\n".join(map(MessageToJson, sent)) if isinstance(sent, list) else MessageToJson(sent)

    return RANDOM.sub("", "\n".join(f"{method} {written(sent)}" for method in requests for sent in requests[method]))


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Which methods each call of the SDK asked for; made with both clients, which must ask alike and answer alike."""
    found = {}
    root = tmp_path_factory.mktemp("reach")
    for name, act in CALLS.items():
        (got, requests), (other, others) = asked(Client, act, root), asked(AsyncClient, act, root)
        assert plain(requests) == plain(others), name
        assert type(got).__name__.removeprefix("Async") == type(other).__name__.removeprefix("Async"), name
        found[name] = set(requests)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_call_of_the_services_can_be_made(method: str, reached: dict[str, set[str]]) -> None:
    offered = any(method in methods for methods in reached.values())
    assert offered != (method in LEFT_OUT), "offer it in both clients, or say in LEFT_OUT why not"


def test_every_call_of_the_sdk_is_tried_here(tmp_path: Path) -> None:
    with Client(trainer="127.0.0.1:1", serving="127.0.0.1:1", api_key="gw_acme_x", home=tmp_path) as client:
        parts = {
            part: getattr(client, part) for part in ("tenants", "datasets", "jobs", "adapters", "serving", "audit")
        }
    names = {f"{part}.{name}" for part, made in parts.items() for name in vars(type(made)) if name[0] != "_"}
    assert names == {name for name in CALLS if name[0].islower() and "." in name}


def test_a_report_says_whether_the_rows_would_be_taken(tmp_path: Path) -> None:
    report, requests = asked(Client, CALLS["datasets.validate"], tmp_path)
    assert isinstance(report, DatasetReport)
    assert (report.rows, report.wrong_rows, report.usable) == (2, 1, False)
    ((header, chunk),) = requests["ValidateDataset"]
    assert (header.header.preview_rows, header.header.sample_rows) == (2, 5)
    assert chunk.chunk == b'{"instruction": "a", "response": "b"}\n'
    assert Report.of(trainer_pb2.DatasetReport(rows=2)).usable
    bad = trainer_pb2.DatasetReport(rows=2, findings=[common_pb2.Finding(level=common_pb2.Finding.LEVEL_ERROR)])
    assert not Report.of(bad).usable


def test_figures_of_rows_that_were_not_kept_are_estimated(tmp_path: Path) -> None:
    _, requests = asked(Client, CALLS["jobs.estimate"], tmp_path)
    (sent,) = requests["EstimateJob"]
    assert (sent.WhichOneof("data"), sent.figures.tokens, sent.parent) == ("figures", 90, "tenants/acme")


def test_a_signature_is_made_over_the_manifest_and_the_private_key_stays_here(tmp_path: Path) -> None:
    _, requests = asked(Client, CALLS["adapters.sign"], tmp_path)
    (sent,) = requests["SignVersion"]
    key = SigningKey.load(tmp_path / "key")
    assert sent.name == VERSION.name, "not the alias, which may point elsewhere by now"
    assert (sent.public_key, sent.signature) == (key.public.raw, key.sign(OTHER))


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (AuditProblemKind, registry_pb2.AuditProblem.Kind, "KIND_"),
        (Role, registry_pb2.Caller.Role, "ROLE_"),
        (MergedState, serving_pb2.MergedState, "MERGED_STATE_"),
        (SettingSource, trainer_pb2.RecipeSetting.Source, "SOURCE_"),
    ],
)
def test_the_new_enumerations_are_the_protocols(ours: Any, theirs: Any, prefix: str) -> None:
    assert {f"{prefix}{value.name}" for value in ours} == set(theirs.keys())
