"""Admission: what refuses a job before any device is touched, and what a job is told first."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapter_store.base import BaseInfo, read_base
from adapter_store.manifest import DatasetFinding, DatasetManifest
from graftwork.backbone import default_path
from trainer_service.core.calibration import Calibrations
from trainer_service.core.errors import DoesNotFit, InvalidRecipe
from trainer_service.core.estimate import FITS
from trainer_service.core.planning import Planner
from trainer_service.core.recipe import Fleet, RecipeRequest


@pytest.fixture(scope="module")
def base() -> BaseInfo:
    return read_base(default_path())


def planner(base: BaseInfo, folder: Path, **fleet: object) -> Planner:
    return Planner(base, Fleet(base_digest=base.digest, **fleet), Calibrations(folder))


def dataset(*findings: DatasetFinding) -> DatasetManifest:
    return DatasetManifest(
        tenant="acme",
        id="ds-1",
        display_name="",
        sha256="0" * 64,
        size=1,
        rows=400,
        format="jsonl",
        created_at=datetime.now(UTC),
        findings=findings,
    )


DUPLICATES = DatasetFinding(
    level="warning",
    code="duplicate_rows",
    message="the same row is there before",
    fix="leave it out",
    count=2,
    lines=(7, 9),
)


def test_warnings_about_recipe_and_data_are_a_jobs_first_events(base: BaseInfo, tmp_path: Path) -> None:
    normalised = DatasetFinding(level="info", code="bom", message="a byte order mark", count=1)
    plan = planner(base, tmp_path).admit(RecipeRequest(rank=32), dataset(DUPLICATES, normalised))
    said = [(it.level, it.message) for it in plan.notices()]
    assert ("warning", "lines 7, 9: the same row is there before; leave it out") in said
    assert any(level == "warning" and "rank 32 is high" in text and "use rank 8" in text for level, text in said)
    assert any(level == "info" and "AdamW" in text for level, text in said)
    assert not any("byte order" in text for _, text in said)


def test_a_lint_that_is_an_error_refuses_the_job_with_its_fix(base: BaseInfo, tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match=r"serving fleet runs the backbone ffff.*GRAFT_TRAINER_SERVES_BASE"):
        planner(base, tmp_path, serves_base="ffff").admit(RecipeRequest(), dataset())
    planner(base, tmp_path, serves_base=base.digest[:8]).admit(RecipeRequest(), dataset())
    with pytest.raises(InvalidRecipe, match=r"fp32 under a 4-bit base.*use bf16"):
        planner(base, tmp_path, device="cuda").admit(RecipeRequest(bits=4, compute_dtype="fp32"), dataset())


def peak(base: BaseInfo, folder: Path, length: int, micro_batch_tokens: int) -> int:
    """What the model says of one recipe, with no limit."""
    roomy = planner(base, folder, micro_batch_tokens=micro_batch_tokens)
    predicted = roomy.plan(RecipeRequest(max_length=length, batch_rows=64), rows=400).estimate
    assert predicted is not None
    return predicted.memory.peak


def test_a_job_that_cannot_fit_is_refused_with_what_would_make_it_fit(base: BaseInfo, tmp_path: Path) -> None:
    enough_for_half = round(peak(base, tmp_path, 512, 512) / FITS) + 1
    small = planner(base, tmp_path, memory_bytes=enough_for_half, device_name="a small machine")
    asked = RecipeRequest(max_length=1024, batch_rows=64)
    with pytest.raises(DoesNotFit, match=r"needs about 0\.\d GB, and a small machine has 0\.\d GB; .*max_length = 512"):
        small.admit(asked, dataset())
    plan = small.plan(asked, rows=400)
    assert plan.findings[0].code == "memory"
    assert "max_length = 512" in plan.findings[0].fix
    assert small.admit(RecipeRequest(max_length=512, batch_rows=64), dataset()).estimate is not None


def test_passes_that_may_not_fit_are_warned_about(base: BaseInfo, tmp_path: Path) -> None:
    enough_for_passes_of_2048 = round(peak(base, tmp_path, 512, 2048) / FITS) + 1
    tight = planner(base, tmp_path, memory_bytes=enough_for_passes_of_2048)
    plan = tight.admit(RecipeRequest(max_length=512, batch_rows=64), dataset())
    (found,) = [it for it in plan.findings if it.code == "micro_batch"]
    assert "passes of 8192 tokens may not fit the device; 2048 should" in found.message
    assert "GRAFT_TRAINER_MICRO_BATCH_TOKENS" in found.fix
