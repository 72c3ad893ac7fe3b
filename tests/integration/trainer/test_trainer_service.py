"""The trainer over gRPC: what a tenant sees from an upload to a published version."""

import json
from pathlib import Path

import grpc
import pytest
from safetensors import safe_open
from trainer_process import TrainerProcess, rows, until

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
    assert kinds == {"state_changed", "step_done", "evaluated", "notice", "published"}
    assert events[-1].state_changed.state == pb.JOB_STATE_SUCCEEDED

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


def test_no_better_than_the_base_is_gated_unless_wanted(trainer: TrainerProcess) -> None:
    tenant = trainer.tenant("gated")
    dataset = tenant.upload(rows())
    # A rate so high that the adapter only does harm.
    harm = {"learning_rate": 1.0, "max_steps": 2, "warmup_ratio": 0.0}
    job = tenant.create(dataset.name, **harm)
    last = list(tenant.watch(job.name))[-1].state_changed
    assert last.state == pb.JOB_STATE_GATED
    assert "no better than the base" in last.message
    gated = tenant.get(job.name)
    assert gated.eval_loss >= gated.base_eval_loss
    assert trainer.store.versions.get("gated", "counter", gated.version).version == gated.version
    assert trainer.store.aliases.list("gated", "counter") == ()
    anyway = tenant.create(dataset.name, anyway=True, **harm)
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
