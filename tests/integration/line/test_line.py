"""Train, publish, serve, on another backbone, with processes killed on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from adapter_store import open_store
from graftwork.v1 import trainer_pb2 as pb
from tests.integration.line.conftest import Graft
from tests.integration.trainer.trainer_process import TrainerProcess

pytestmark = pytest.mark.slow
RECIPE = ("--max-steps", "60", "--lr", "0.02", "--publish-anyway")


def train(graft: Graft, tenant: str, adapter: str, rows: Path, *options: str) -> dict[str, str]:
    job = graft.json("train", str(rows), "-t", tenant, "-a", adapter, *RECIPE, *options)
    assert job["state"] == "JOB_STATE_SUCCEEDED", job
    # vLLM answers with every version as it was trained, before its alias points at it.
    assert job["probe_outcome"] == "PROBE_OUTCOME_PASSED", job
    return job


def answer(graft: Graft, tenant: str, adapter: str, **environment: str) -> dict[str, str]:
    return graft.json(
        "generate", "say", "--input", "item 7", "-t", tenant, "-a", adapter, "--max-tokens", "12", **environment
    )


def service(graft: Graft, module: str) -> psutil.Process:
    """The running service's process, found among the children of `graft up`."""
    parent = psutil.Process(int((graft.home / "run" / "up.lock").read_text()))
    return next(child for child in parent.children() if module in child.cmdline())


def wait_ready(graft: Graft) -> None:
    graft.json("status", "--wait", "240", timeout=280)


def test_two_tenants_learn_different_answers_on_a_foreign_backbone(up: Graft, rows_file: Callable[[str], Path]) -> None:
    keys = {tenant: up.json("tenant", "create", tenant)["api_key"] for tenant in ("red", "blue")}
    for tenant in keys:
        train(up, tenant, "word", rows_file(tenant))
    base = up.json("generate", "say", "--input", "item 7", "--max-tokens", "12")
    assert (base["route"], base["version"]) == ("base", "")
    for tenant, key in keys.items():
        got = answer(up, tenant, "word", GRAFT_API_KEY=key)
        assert got["text"].strip() == tenant
        assert got["route"] == "swapped"
        assert got["text"] != base["text"]
    foreign = up.run("generate", "say", "-t", "blue", "-a", "word", GRAFT_API_KEY=keys["red"])
    missing = up.run("generate", "say", "-t", "red", "-a", "nothing", GRAFT_API_KEY=keys["red"])
    assert foreign.returncode == missing.returncode == 1
    assert "not found" in foreign.stderr or "no adapter" in foreign.stderr or "does not exist" in foreign.stderr
    shown = up.json("adapter", "show", "word", "-t", "red")
    assert len(shown["versions"]) == 1
    assert [job["state"] for job in up.json("job", "list")] == ["JOB_STATE_SUCCEEDED"] * 2


def test_the_audit_log_tells_how_the_alias_came_to_where_it_points(up: Graft) -> None:
    """Who made the tenant, who sent the data, which job published and moved the alias; then what an operator did in serving."""
    (job,) = (job for job in up.json("job", "list") if job["name"].startswith("tenants/red/"))
    entries = up.json("audit", "--tenant", "red")[::-1]
    done = [(entry["action"], entry["actor"].split()[0], entry["outcome"]) for entry in entries]
    by = job["name"]
    assert done == [
        ("CreateTenant", "operator", "ok"),
        ("CreateApiKey", "operator", "ok"),
        ("UploadDataset", "operator", "ok"),
        ("CreateJob", "operator", "ok"),
        ("PublishVersion", by, "ok"),
        ("SetAlias", by, "ok"),
    ]
    assert entries[3]["target"] == by
    assert {change["field"]: change["after"] for change in entries[5]["changes"]} == {
        "version": job["version"],
        "route": "swapped",
    }
    up.json("pin", "word", "-t", "red")
    up.json("evict", "word", job["version"], "-t", "red")
    deadline = time.monotonic() + 30
    while (newest := up.json("audit", "--tenant", "red", "--limit", "2"))[0]["action"] != "Evict":
        assert time.monotonic() < deadline, newest  # the serving service sends its own, and this asks the trainer
    assert [entry["service"].split()[0] for entry in newest] == ["ServingService"] * 2
    assert newest[1]["changes"][0] | {"field": "pinned", "after": "yes"} == newest[1]["changes"][0]


@pytest.mark.thorough
def test_a_merged_adapter_answers_alike_in_plain_vllm(up: Graft, tmp_path: Path) -> None:
    """Without LoRA, and without anything of ours."""
    folder = tmp_path / "merged"
    report = up.json("adapter", "merge", "word", str(folder), "-t", "red")
    assert report["rows"] > 0
    assert report["merged_loss"] == pytest.approx(report["adapter_loss"], abs=0.05 * report["base_loss"])
    code = (
        "import sys; from vllm import LLM, SamplingParams; llm = LLM(sys.argv[1], enforce_eager=True, max_num_seqs=4); "
        "chat = [{'role': 'user', 'content': 'say\\nitem 7'}]; "
        "print(llm.chat(chat, SamplingParams(temperature=0, max_tokens=12))[0].outputs[0].text)"
    )
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=environment, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].strip() == "red" == answer(up, "red", "word")["text"].strip()


def test_a_version_that_serving_cannot_answer_with_gets_no_alias(
    up: Graft, miniature: Path, tmp_path: Path, rows_file: Callable[[str], Path]
) -> None:
    """A trainer that was set up for another backbone than the fleet's: the alias must not move."""
    trainer = TrainerProcess(
        tmp_path / "trainer",
        miniature,
        GRAFT_TRAINER_PROBE_ADDRESS_FILE=str(up.home / "run" / "serving.address"),
        GRAFT_STORE_URL=f"file://{up.home}/store",
        GRAFT_OPERATOR_KEY_FILE=str(up.home / "operator.key"),
    )
    trainer.store = open_store(f"file://{up.home}/store")
    with trainer:
        green = trainer.tenant("green-probe")
        job = green.create(green.upload(rows_file("green").read_bytes()).name, max_steps=20)
        events = list(green.watch(job.name))
        (probed,) = [event.probed for event in events if event.WhichOneof("event") == "probed"]
        assert probed.outcome == pb.PROBE_OUTCOME_FAILED
        assert "was trained for the backbone" in probed.message
        done = green.get(job.name)
        assert done.state == pb.JOB_STATE_GATED
        assert "probe failed" in done.message
        assert done.probe_outcome == pb.PROBE_OUTCOME_FAILED
        assert trainer.store.versions.get("green-probe", "counter", done.version)
        assert trainer.store.aliases.list("green-probe", "counter") == ()


def test_bad_rows_are_refused_by_line_and_leave_nothing(up: Graft, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(
        '{"instruction": "a", "response": "b"}\n{"instruction": "a"\n{"instruction": "a", "response": " "}\n'
    )
    done = up.run("train", str(bad), "-t", "red", "-a", "broken")
    assert done.returncode == 1
    assert "line 2" in done.stderr
    assert "line 3" in done.stderr
    assert "broken" not in {adapter["name"].rsplit("/", 1)[-1] for adapter in up.json("adapter", "list", "-t", "red")}


@pytest.mark.thorough
def test_a_killed_worker_starts_again_and_publishes_once(up: Graft, rows_file: Callable[[str], Path]) -> None:
    name = up.json("train", str(rows_file("jade")), "-t", "red", "-a", "killed", *RECIPE, "--no-wait")["name"]
    parent = service(up, "trainer_service")
    killed = False
    while not killed:  # ends when the worker appears, fails when the job ended without one
        assert up.json("job", "show", name)["state"] != "JOB_STATE_SUCCEEDED"
        for child in parent.children(recursive=True):
            if "trainer_service.engine.worker" in child.cmdline():
                child.kill()
                killed = True
    job = up.json("job", "watch", name)
    assert job["state"] == "JOB_STATE_SUCCEEDED"
    assert job["attempt"] == 2
    assert len(up.json("adapter", "show", "killed", "-t", "red")["versions"]) == 1
    assert answer(up, "red", "killed")["text"].strip() == "jade"


@pytest.mark.parametrize("module", ["trainer_service", "serving_service"])
@pytest.mark.thorough
def test_a_killed_service_comes_back_with_everything(up: Graft, module: str) -> None:
    victim = service(up, module)
    children = victim.children(recursive=True)
    os.kill(victim.pid, signal.SIGKILL)
    psutil.wait_procs([victim], timeout=30)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "a killed service must not leave processes that hold its memory"
    wait_ready(up)
    assert service(up, module).pid != victim.pid
    assert answer(up, "blue", "word")["text"].strip() == "blue"
    assert {job["state"] for job in up.json("job", "list")} == {"JOB_STATE_SUCCEEDED"}


def test_eviction_frees_the_disk_and_the_adapter_comes_back(up: Graft) -> None:
    answer(up, "red", "word")
    held = next(item for item in up.json("residency") if (item["tenant"], item["adapter"]) == ("red", "word"))
    assert int(held["disk_bytes"]) > 0
    freed = up.json("evict", "word", held["version"], "-t", "red")
    assert int(freed["freed_disk_bytes"]) == int(held["disk_bytes"])
    assert not [item for item in up.json("residency") if item["version"] == held["version"]]
    assert answer(up, "red", "word")["tier"] == "store"


def test_a_node_out_of_traffic_answers_nobody_until_it_is_taken_back(up: Graft) -> None:
    asked = ("generate", "say", "--input", "item 7", "--max-tokens", "4")
    drained = up.json("drain", "--wait", "60")
    assert (drained["draining"], drained["running"]) == (True, 0)
    refused = up.run(*asked)
    assert refused.returncode
    assert "takes no requests now" in refused.stderr
    assert "drain" in up.run("status").stdout
    assert not up.json("drain", "--resume")["draining"]
    assert up.json(*asked)["route"] == "base"


# At the end, since the first test above counts the jobs of a fresh home.
from tests.integration.line.sdk_examples import (  # noqa: E402
    test_the_asynchronous_client_watches_streams_and_cancels,  # noqa: F401
    test_the_sdks_examples_run,  # noqa: F401
)
