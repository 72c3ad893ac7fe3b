"""Before a job: data sets validated, recipes explained, jobs estimated and refused; over gRPC and with the command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trainer_process import Caller, TrainerProcess, until

from graftwork.client import Client
from graftwork.client.errors import RemoteInvalid, RemoteNotFound
from graftwork.client.plans import refused_rows
from graftwork.v1 import common_pb2
from graftwork.v1 import trainer_pb2 as pb
from tests.processes import running

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
ERROR = common_pb2.Finding.LEVEL_ERROR


class Tenant:
    """A tenant with its client and its command line."""

    def __init__(self, trainer: TrainerProcess, name: str) -> None:
        self.caller: Caller = trainer.tenant(name)
        self.name, self.trainer = name, trainer
        self.key = self.caller._metadata[0][1].removeprefix("Bearer ")
        self.address = (trainer.home / "address").read_text().strip()
        self.client = Client(self.address, "127.0.0.1:1", self.key)

    def graft(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
        command = [sys.executable, "-m", "graftwork.cli.main", "--home", str(self.trainer.home / "cli"), *arguments]
        environment = clean | {"GRAFT_TRAINER": self.address, "GRAFT_API_KEY": self.key, "COLUMNS": "200"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    def stored(self) -> list[str]:
        return [it.id for it in self.trainer.store.datasets.list(self.name).items]


@pytest.fixture(scope="module")
def acme(trainer: TrainerProcess) -> Tenant:
    return Tenant(trainer, "planner")


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((it if isinstance(it, str) else json.dumps(it)) + "\n" for it in rows))
    return path


def good(count: int = 40) -> list[dict[str, str]]:
    return [{"instruction": f"count {at}", "response": "one two " * (at % 3 + 1) + str(at)} for at in range(count)]


def test_a_file_is_looked_through_and_nothing_is_stored(acme: Tenant, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", *good(3), "{no", {"instruction": "[INST] x", "response": "y"}, good(1)[0])
    steps: list[tuple[int, int]] = []
    report = acme.client.validate_dataset(
        acme.name, file, preview_rows=2, looked=lambda done, total: steps.append((done, total))
    )
    found = {it.code: (list(it.lines), it.level == ERROR) for it in report.findings}
    assert found["not_json"] == ([4], True)
    assert found["marker"] == ([5], True)
    assert found["duplicate_rows"] == ([6], False)
    assert (report.rows, report.wrong_rows, report.template) == (6, 2, "tokenizer")
    spans = [(it.text, it.supervised) for it in report.preview[0].spans]
    assert spans == [("<|user|>\ncount 0<|end|>\n<|assistant|>\n", False), ("one two 0<|end|>", True)]
    assert acme.stored() == []
    assert list((acme.trainer.state / "uploads").iterdir()) == []


def test_an_upload_that_is_refused_carries_its_findings(acme: Tenant, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", *good(3), *["{no"] * 5000, *[{"instruction": "x"}] * 5000)
    with pytest.raises(
        RemoteInvalid, match=r"10000 of 10003 rows are wrong; lines 4, 5, .* and 4990 more: not JSON"
    ) as caught:
        acme.client.upload_dataset(acme.name, file)
    report = refused_rows(caught.value)
    assert report is not None
    assert [(it.code, it.count) for it in report.findings] == [("not_json", 5000), ("missing", 5000)]
    assert acme.stored() == []


def test_an_upload_that_arrives_damaged_is_refused(acme: Tenant) -> None:
    header = pb.UploadDatasetHeader(
        parent=f"tenants/{acme.name}", format=common_pb2.DATASET_FORMAT_JSONL, sha256="0" * 64
    )
    parts = [pb.UploadDatasetRequest(header=header), pb.UploadDatasetRequest(chunk=json.dumps(good(1)[0]).encode())]
    with pytest.raises(Exception, match="0000 was announced; send the file again"):
        acme.caller.call("UploadDataset", iter(parts))


def test_warnings_stay_with_the_data_set_and_reach_the_job(acme: Tenant, tmp_path: Path) -> None:
    dataset = acme.client.upload_dataset(acme.name, write(tmp_path / "rows.jsonl", *good(), good(1)[0]))
    assert [(it.code, list(it.lines)) for it in dataset.findings] == [("duplicate_rows", [41])]
    assert acme.client.get_dataset(dataset.name).findings == dataset.findings
    job = acme.caller.create(dataset.name, max_steps=1)
    events = list(acme.client.watch_job(job.name))
    said = [it.notice.message for it in events if it.WhichOneof("event") == "notice"]
    assert any(text.startswith("line 41: the same row is there before") for text in said)
    (estimated,) = [it.estimated for it in events if it.WhichOneof("event") == "estimated"]
    (measured,) = [it.measured for it in events if it.WhichOneof("event") == "measured"]
    assert (estimated.steps, measured.steps) == (1, 1)
    assert measured.predicted_peak_bytes == estimated.peak_bytes
    assert 0.5 < measured.peak_bytes / measured.predicted_peak_bytes < 1.5
    stored = acme.client.validate_stored(dataset.name, preview_rows=1)
    assert (stored.rows, stored.figures.rows) == (41, 41)
    estimate = acme.client.estimate_job(acme.name, pb.Recipe(max_steps=1), dataset=dataset.name)
    assert estimate.data == stored.figures
    assert {it.code for it in estimate.recipe.findings} >= {"duplicate_rows", "steps"}
    manifest = acme.trainer.store.versions.get(acme.name, "counter", acme.client.get_job(job.name).version)
    assert manifest.parameters == estimate.trainable_parameters
    assert manifest.file("adapter_model.safetensors").size == pytest.approx(estimate.adapter_bytes, rel=0.1)


def test_a_recipe_is_explained_without_data(acme: Tenant) -> None:
    explained = acme.client.explain_recipe(acme.name, pb.Recipe(preset="compact", dropout=0.3), 8000)
    said = {it.name: (it.value, it.source) for it in explained.settings}
    assert said["rank"] == ("16", pb.RecipeSetting.SOURCE_AUTOMATIC)
    assert said["dropout"] == ("0.3", pb.RecipeSetting.SOURCE_ASKED)
    assert said["optimizer"] == ("adamw", pb.RecipeSetting.SOURCE_DEVICE)
    assert "dropout" in {it.code for it in explained.findings}
    assert next(it.approach for it in explained.advice if it.applies) == "LoRA on a 16-bit base"
    with pytest.raises(RemoteInvalid, match="full fine-tuning is not offered"):
        acme.client.explain_recipe(acme.name, pb.Recipe(preset="full"), 8000)


def test_a_setting_that_the_service_does_not_know_is_refused(acme: Tenant) -> None:
    newer = pb.Recipe.FromString(pb.Recipe(rank=8).SerializeToString() + b"\xc0\x3e\x01")  # field 1000 = 1
    with pytest.raises(RemoteInvalid, match="field number 1000 is not known"):
        acme.client.explain_recipe(acme.name, newer, 100)


def test_a_job_that_cannot_fit_or_be_served_is_refused_before_it_is_queued(
    trainer: TrainerProcess, tmp_path: Path, miniature: Path
) -> None:
    elsewhere = TrainerProcess(tmp_path / "other", miniature, GRAFT_TRAINER_SERVES_BASE="ffff").start()
    try:
        tenant = Tenant(elsewhere, "misled")
        dataset = tenant.client.upload_dataset(tenant.name, write(tmp_path / "rows.jsonl", *good()))
        with pytest.raises(Exception, match="serving fleet runs the backbone ffff"):
            tenant.caller.create(dataset.name)
        assert list(tenant.client.list_jobs(tenant.name)) == []
    finally:
        elsewhere.end()


def test_figures_of_no_data_set_and_another_tenants_data_are_refused(acme: Tenant, trainer: TrainerProcess) -> None:
    with pytest.raises(RemoteInvalid, match="figures are those of no data set"):
        acme.client.estimate_job(acme.name, pb.Recipe(), figures=pb.DatasetFigures(rows=9, tokens=-1))
    rival = Tenant(trainer, "rival-planner")
    foreign = rival.caller.upload(json.dumps(good(1)[0]).encode() + b"\n" + json.dumps(good(2)[1]).encode()).name
    for call in (
        lambda: acme.client.validate_stored(foreign),
        lambda: acme.client.estimate_job(acme.name, pb.Recipe(), dataset=foreign),
        lambda: acme.client.explain_recipe(rival.name, pb.Recipe(), 100),
    ):
        with pytest.raises(RemoteNotFound):
            call()


def test_the_command_shows_findings_preview_and_estimate(acme: Tenant, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", *good(2), {"instruction": "x", "response": " "})
    done = acme.graft("dataset", "validate", str(bad))
    assert done.returncode == 1
    assert "field 'response' is empty" in done.stdout
    assert "⟦one two 0<|end|>⟧" in done.stdout
    as_json = acme.graft("--json", "dataset", "validate", str(bad))
    assert as_json.returncode == 1
    assert [it["code"] for it in json.loads(as_json.stdout)["findings"]] == ["empty"]
    refused = acme.graft("train", str(bad), "-a", "x")
    assert refused.returncode == 1
    assert "line 3: field 'response' is empty" in refused.stderr

    fine = write(tmp_path / "fine.jsonl", *good())
    before = acme.stored()
    dry = acme.graft("--json", "train", str(fine), "-a", "x", "--dry-run", "--rank", "4", "--epochs", "30")
    assert dry.returncode == 0, dry.stderr
    estimate = json.loads(dry.stdout)["estimate"]
    assert estimate["fits"] is True
    assert int(estimate["steps"]) == 30 * 5
    assert int(estimate["trainable_parameters"]) == 2 * 2 * 4 * (32 + 32)
    shown = acme.graft("train", str(fine), "-a", "x", "--dry-run")
    assert "peak memory" in shown.stdout
    assert "set by" in shown.stdout
    wrong = acme.graft("train", str(fine), "-a", "x", "--dry-run", "--rank", "1000")
    assert (wrong.returncode, "rank = 1000 is impossible" in wrong.stderr) == (1, True)
    assert acme.stored() == before, "a dry run stores nothing"

    recipe = acme.graft("recipe", "show", "--rows", "8000", "--preset", "compact")
    assert recipe.returncode == 0
    assert "automatic rule" in recipe.stdout
    nothing = acme.graft("dataset", "validate", str(tmp_path / "none.jsonl"))
    assert (nothing.returncode, "is no file" in nothing.stderr) == (1, True)


def test_a_validation_that_is_left_ends_its_process_and_its_file(acme: Tenant, tmp_path: Path) -> None:
    import psutil

    file = tmp_path / "rows.jsonl"
    with file.open("w") as out:
        for at in range(200_000):
            out.write(json.dumps({"instruction": f"count {at}", "response": "one"}) + "\n")

    class Left(Exception):
        pass

    def leave(done: int, total: int) -> None:
        raise Left

    with pytest.raises(Left):
        acme.client.validate_dataset(acme.name, file, looked=leave)
    assert acme.trainer.process is not None
    service = psutil.Process(acme.trainer.process.pid)
    until("the process ends", lambda: not running("trainer_service.engine.inspection", service))
    until("the file is gone", lambda: not list((acme.trainer.state / "uploads").iterdir()))
