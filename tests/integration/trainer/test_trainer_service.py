"""The trainer over gRPC: what a tenant sees from an upload to a published version."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from safetensors import safe_open
from trainer_process import TrainerProcess, rows, until

from graftwork.client.errors import RemoteNotFound, RemoteUnavailable
from graftwork.client.folders import InvalidFolder
from graftwork.signing import read_public_keys
from graftwork.template import DEFAULT_CHAT_TEMPLATE
from graftwork.v1 import trainer_pb2 as pb

pytestmark = pytest.mark.slow


def refused(code: grpc.StatusCode, call: object, *arguments: object, **named: object) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **named)  # type: ignore[operator]
    assert caught.value.code() == code, caught.value.details()
    return str(caught.value.details())


def test_from_upload_to_a_version_in_the_store(trainer: TrainerProcess, tmp_path: Path) -> None:
    acme = trainer.tenant("acme")
    dataset = acme.upload(rows())
    assert dataset.rows == 40
    job = acme.create(dataset.name)
    assert job.state == pb.JOB_STATE_QUEUED
    assert (job.recipe.rank, job.recipe.alpha, job.recipe.bits) == (8, 16.0, 16)
    events = list(acme.watch(job.name))
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    kinds = {event.WhichOneof("event") for event in events}
    said = {"state_changed", "step_done", "evaluated", "notice", "published", "checkpoint_saved", "probed"}
    assert kinds == said | {"estimated", "measured"}
    assert events[-1].state_changed.state == pb.JOB_STATE_SUCCEEDED
    (probed,) = [event.probed for event in events if event.WhichOneof("event") == "probed"]
    assert probed.outcome == pb.PROBE_OUTCOME_SKIPPED
    assert "no serving service is configured" in probed.message
    steps = [event.step_done for event in events if event.WhichOneof("event") == "step_done"]
    assert [step.step for step in steps] == list(range(1, 21))
    assert all(step.device_memory_bytes > 1 << 20 and step.steps == 1 for step in steps)

    done = acme.get(job.name)
    assert done.last_event == len(events)
    assert (done.attempt, done.step, done.total_steps) == (1, 20, 20)
    assert 0 < done.eval_loss < done.base_eval_loss
    manifest = trainer.store.resolve("acme", "counter")
    assert manifest.version == done.version
    assert manifest.made.made_by == job.name
    assert manifest.made.dataset_sha256 == dataset.sha256
    assert manifest.made.recipe["rank"] == 8
    assert manifest.made.metrics["eval_loss"] == pytest.approx(done.eval_loss)
    assert manifest.tokenizer_digest
    (kept,) = trainer.store.signatures.list(manifest)
    assert (kept.record.by, kept.problem) == (job.name, "")
    assert trainer.store.signatures.signer(manifest, read_public_keys(trainer.home / "signing-key.pub"))
    folder = trainer.store.versions.fetch(manifest, tmp_path / "version")
    assert (folder / "chat_template.jinja").read_text() == DEFAULT_CHAT_TEMPLATE
    assert "/" not in json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        assert {name.split(".")[-3] for name in weights.keys()} == {"q_proj", "v_proj"}  # noqa: SIM118
    # What the job left on the disk is its log; its lock, rows and checkpoints are gone.
    work = trainer.state / "jobs" / job.name.rsplit("/", 1)[-1]
    until("the job's folder is cleaned", lambda: [file.name for file in work.iterdir()] == ["worker.log"])

    assert [event.number for event in acme.watch(job.name, after=5)] == list(range(6, len(events) + 1))
    assert acme.call("ListJobs", pb.ListJobsRequest(parent="tenants/acme")).jobs[0] == done
    refused(grpc.StatusCode.FAILED_PRECONDITION, acme.cancel, job.name)


@pytest.mark.thorough
def test_no_better_than_the_base_is_gated_unless_wanted(trainer: TrainerProcess) -> None:
    tenant = trainer.tenant("gated")
    dataset = tenant.upload(rows())
    # A rate so low that no loss can show it.
    idle = {"learning_rate": 1e-12, "max_steps": 1, "warmup_ratio": 0.0}
    job = tenant.create(dataset.name, **idle)
    last = list(tenant.watch(job.name))[-1].state_changed
    assert last.state == pb.JOB_STATE_GATED
    assert "no better than the base" in last.message
    gated = tenant.get(job.name)
    assert gated.eval_loss >= gated.base_eval_loss
    assert trainer.store.versions.get("gated", "counter", gated.version).version == gated.version
    assert trainer.store.aliases.list("gated", "counter") == ()
    anyway = tenant.create(dataset.name, anyway=True, **idle)
    assert list(tenant.watch(anyway.name))[-1].state_changed.state == pb.JOB_STATE_SUCCEEDED
    assert trainer.store.aliases.get("gated", "counter", "prod").version == gated.version


def test_wrong_rows_and_requests_are_refused(trainer: TrainerProcess) -> None:
    tenant = trainer.tenant("careless")
    wrong = rows(3) + b'\n{"instruction": "x"}\nnot json\n'
    details = refused(grpc.StatusCode.INVALID_ARGUMENT, tenant.upload, wrong)
    assert "2 of 5 rows are wrong; line 4: field 'response' is missing; line 5: not JSON" in details
    assert list((trainer.state / "uploads").iterdir()) == []
    dataset = tenant.upload(rows(3)).name
    assert "turbo" in refused(grpc.StatusCode.INVALID_ARGUMENT, tenant.create, dataset, preset="turbo")
    assert "rank" in refused(grpc.StatusCode.INVALID_ARGUMENT, tenant.create, dataset, rank=1000)
    assert "c_attn" in refused(grpc.StatusCode.INVALID_ARGUMENT, tenant.create, dataset, target_modules=["c_attn"])
    refused(grpc.StatusCode.INVALID_ARGUMENT, tenant.create, dataset, adapter="Not An Id")
    refused(grpc.StatusCode.NOT_FOUND, tenant.create, f"{tenant.parent}/datasets/ds-none")
    refused(grpc.StatusCode.INVALID_ARGUMENT, tenant.call, "UploadDataset", iter([pb.UploadDatasetRequest(chunk=b"x")]))


def test_rows_that_leave_nothing_to_learn_fail_the_job_once(trainer: TrainerProcess) -> None:
    tenant = trainer.tenant("mistaken")
    job = tenant.create(tenant.upload(rows()).name, max_length=8)
    last = list(tenant.watch(job.name))[-1].state_changed
    assert (last.state, last.failure_reason) == (pb.JOB_STATE_FAILED, pb.FAILURE_REASON_USER_ERROR)
    assert "line(s) 1, 2, 3" in last.message
    assert tenant.get(job.name).attempt == 1


def test_an_idempotency_key_makes_one_job(trainer: TrainerProcess) -> None:
    tenant = trainer.tenant("repeater")
    dataset = tenant.upload(rows()).name
    job = tenant.create(dataset, key="k1", max_steps=1)
    assert tenant.create(dataset, key="k1", max_steps=1).name == job.name
    refused(grpc.StatusCode.ABORTED, tenant.create, dataset, key="k1", max_steps=2)
    tenant.cancel(job.name)


def test_another_tenants_things_do_not_exist(trainer: TrainerProcess) -> None:
    owner, rival = trainer.tenant("owner"), trainer.tenant("rival")
    dataset = owner.upload(rows())
    job = owner.create(dataset.name, max_steps=1)
    missing = "tenants/owner/jobs/01none"
    for method, request in (
        ("GetJob", pb.GetJobRequest(name=job.name)),
        ("CancelJob", pb.CancelJobRequest(name=job.name)),
        ("ListJobs", pb.ListJobsRequest(parent="tenants/owner")),
        ("GetJob", pb.GetJobRequest(name=missing)),
    ):
        refused(grpc.StatusCode.NOT_FOUND, rival.call, method, request)
    refused(grpc.StatusCode.NOT_FOUND, lambda: list(rival.watch(job.name)))
    refused(grpc.StatusCode.NOT_FOUND, rival.upload, rows(), parent="tenants/owner")
    refused(grpc.StatusCode.NOT_FOUND, rival.create, dataset.name)
    refused(grpc.StatusCode.PERMISSION_DENIED, rival.call, "ListJobs", pb.ListJobsRequest(parent="tenants/-"))
    names = [found.name for found in trainer.operator().call("ListJobs", pb.ListJobsRequest(parent="tenants/-")).jobs]
    assert job.name in names
    owner.cancel(job.name)


def test_a_call_without_a_good_key_is_refused(trainer: TrainerProcess) -> None:
    tenant = trainer.tenant("keyless")
    for key in ("nonsense", "gw_keyless_" + "0" * 48, "gwop_wrong", ""):
        tenant._metadata = (("authorization", f"Bearer {key}"),)
        refused(grpc.StatusCode.UNAUTHENTICATED, tenant.call, "GetTrainerInfo", pb.GetTrainerInfoRequest())


def test_a_version_is_merged_into_a_model_of_its_own(trainer: TrainerProcess, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    tenant = trainer.tenant("merger")
    job = tenant.create(tenant.upload(rows()).name, epochs=12)
    assert list(tenant.watch(job.name))[-1].state_changed.state == pb.JOB_STATE_SUCCEEDED
    done = tenant.get(job.name)
    client, stages = tenant.client(), list[str]()
    name = f"{tenant.parent}/adapters/counter/aliases/prod"
    folder = tmp_path / "merged"
    report = client.merge_version(name, folder, progress=lambda stage, done, total: stages.append(stage))
    assert report.version.endswith(done.version)
    assert {"fetching", "merging", "evaluating", "checking", "receiving"} == set(stages)
    assert report.rows == 4
    assert report.adapter_loss == pytest.approx(done.eval_loss, rel=0.02)
    assert report.merged_loss == pytest.approx(report.adapter_loss, rel=0.02)
    assert report.base_loss == pytest.approx(done.base_eval_loss, rel=0.02)
    assert list((trainer.state / "merges").iterdir()) == []

    generate = pipeline("text-generation", model=str(folder))
    chat = [{"role": "user", "content": "count\nn:1"}]
    merged = generate(chat, max_new_tokens=8, do_sample=False)[0]["generated_text"][-1]["content"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == DEFAULT_CHAT_TEMPLATE
    from peft import PeftModel

    adapter = trainer.store.versions.fetch(trainer.store.resolve("merger", "counter"), tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(trainer.backbone)
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = PeftModel.from_pretrained(base, adapter).generate(**prompt, max_new_tokens=8, do_sample=False)
    assert merged == tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)

    with pytest.raises(InvalidFolder):
        client.merge_version(name, folder)
    with pytest.raises(RemoteNotFound):
        client.merge_version(f"{tenant.parent}/adapters/nothing/aliases/prod", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.thorough
def test_a_merge_that_is_killed_or_given_up_leaves_nothing(trainer: TrainerProcess, tmp_path: Path) -> None:
    tenant = trainer.tenant("hasty")
    job = tenant.create(tenant.upload(rows()).name, max_steps=5)
    list(tenant.watch(job.name))
    version = f"{tenant.parent}/adapters/counter/versions/{tenant.get(job.name).version}"

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "fetching":
            trainer.worker().send_signal(signal.SIGKILL)

    with pytest.raises(RemoteUnavailable, match="status -9"):
        tenant.client().merge_version(version, tmp_path / "killed", progress=kill)
    stream = tenant.call("MergeVersion", pb.MergeVersionRequest(name=version))
    next(stream)
    worker = trainer.worker()
    stream.cancel()
    until("its process ends", lambda: not worker.is_running())
    until("its folder is gone", lambda: list((trainer.state / "merges").iterdir()) == [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "outcome", "state"),
    [
        ("when-available", pb.PROBE_OUTCOME_SKIPPED, pb.JOB_STATE_SUCCEEDED),
        ("require", pb.PROBE_OUTCOME_FAILED, pb.JOB_STATE_GATED),
    ],
)
@pytest.mark.thorough
def test_a_serving_service_that_is_away_is_waited_for_and_then_done_without_or_not(
    own_trainer: Callable[..., TrainerProcess], mode: str, outcome: int, state: int
) -> None:
    trainer = own_trainer(
        GRAFT_TRAINER_PROBE=mode, GRAFT_TRAINER_PROBE_ADDRESS="127.0.0.1:1", GRAFT_TRAINER_PROBE_WAIT_SECONDS="1"
    )
    tenant = trainer.tenant("alone")
    job = tenant.create(tenant.upload(rows()).name)
    events = list(tenant.watch(job.name))
    assert events[-1].state_changed.state == state
    (probed,) = [event.probed for event in events if event.WhichOneof("event") == "probed"]
    assert probed.outcome == outcome
    assert "no serving service answers at 127.0.0.1:1, for 1 s" in probed.message
    assert any("waiting up to 1 s for the probe" in event.notice.message for event in events)
    done = tenant.get(job.name)
    assert trainer.store.versions.get("alone", "counter", done.version)
    aliases = trainer.store.aliases.list("alone", "counter")
    assert len(aliases) == (state == pb.JOB_STATE_SUCCEEDED)
