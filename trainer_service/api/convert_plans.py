"""What is known before a job runs: findings, reports on data sets, explained recipes, estimates; protobuf and back."""

from collections.abc import Iterable

from graftwork.v1 import common_pb2, trainer_pb2
from trainer_service.api.convert import recipe
from trainer_service.core.errors import InvalidRequest, InvalidRows
from trainer_service.core.estimate import Estimate
from trainer_service.core.findings import Finding, Level
from trainer_service.core.inspection import Figures, Inspection, Progress
from trainer_service.core.planning import Plan
from trainer_service.core.recipe import Source
from trainer_service.core.recipe_values import Fleet
from trainer_service.core.uploads import Look

MAX_METADATA = 6 << 10
"""Bytes of findings that travel with a refusal; gRPC takes 8 KiB of metadata in all."""

_LEVELS = {
    Level.INFO: common_pb2.Finding.LEVEL_INFO,
    Level.WARNING: common_pb2.Finding.LEVEL_WARNING,
    Level.ERROR: common_pb2.Finding.LEVEL_ERROR,
}
_SOURCES = {
    Source.ASKED: trainer_pb2.RecipeSetting.SOURCE_ASKED,
    Source.PRESET: trainer_pb2.RecipeSetting.SOURCE_PRESET,
    Source.AUTOMATIC: trainer_pb2.RecipeSetting.SOURCE_AUTOMATIC,
    Source.DEFAULT: trainer_pb2.RecipeSetting.SOURCE_DEFAULT,
    Source.DEVICE: trainer_pb2.RecipeSetting.SOURCE_DEVICE,
}


def finding(found: Finding) -> common_pb2.Finding:
    """Of rows or of a recipe."""
    return common_pb2.Finding(level=_LEVELS[found.level], **found.model_dump(exclude={"level"}))


def refusal(error: InvalidRows) -> bytes:
    """Returns the findings of a refused data set, as many as metadata may hold, errors first."""
    report = trainer_pb2.DatasetReport(rows=error.rows, wrong_rows=error.wrong_rows)
    for found in error.findings:
        report.findings.append(finding(found))
        if report.ByteSize() > MAX_METADATA:
            del report.findings[-1]
            break
    return report.SerializeToString()


def look(header: trainer_pb2.ValidateDatasetHeader, max_length: int) -> Look:
    """Raises InvalidRequest for a number that cannot be."""
    if header.preview_rows < 0 or header.sample_rows < 0:
        raise InvalidRequest("header.preview_rows and header.sample_rows must not be below 0")
    return Look(max_length=max_length, preview_rows=header.preview_rows, sample_rows=header.sample_rows)


def validation(step: Progress | Inspection) -> trainer_pb2.ValidateDatasetResponse:
    """Of one step of looking a data set through."""
    if isinstance(step, Progress):
        made = trainer_pb2.ValidateDatasetProgress(done=step.done, total=step.total)
        return trainer_pb2.ValidateDatasetResponse(progress=made)
    report = trainer_pb2.DatasetReport(
        rows=step.rows,
        wrong_rows=step.wrong_rows,
        findings=map(finding, step.findings),
        figures=figures(step.figures) if step.figures else None,
        preview=[
            trainer_pb2.PreviewRow(
                line=row.line,
                tokens=row.tokens,
                full_tokens=row.full_tokens,
                spans=[trainer_pb2.PreviewSpan(text=it.text, supervised=it.supervised) for it in row.spans],
            )
            for row in step.preview
        ],
        template=step.template,
    )
    return trainer_pb2.ValidateDatasetResponse(report=report)


def figures(known: Figures) -> trainer_pb2.DatasetFigures:
    """Of a data set."""
    return trainer_pb2.DatasetFigures(**known.model_dump())


def given_figures(sent: trainer_pb2.DatasetFigures) -> Figures:
    """Raises InvalidRequest for figures that no data set has."""
    fields = {field.name: getattr(sent, field.name) for field in sent.DESCRIPTOR.fields}
    if any(value < 0 for value in fields.values()) or sent.supervised_tokens > sent.tokens:
        raise InvalidRequest("figures are those of no data set; send them as ValidateDataset answered")
    return Figures(**fields)


def explanation(plan: Plan, fleet: Fleet) -> trainer_pb2.RecipeExplanation:
    """Of a plan's recipe."""
    return trainer_pb2.RecipeExplanation(
        recipe=recipe(plan.recipe),
        settings=[
            trainer_pb2.RecipeSetting(name=it.name, value=it.value, source=_SOURCES[it.source], reason=it.reason)
            for it in plan.resolution.settings
        ],
        findings=_plan_findings(plan),
        advice=[
            trainer_pb2.RecipeAdvice(
                scenario=it.scenario,
                approach=it.approach,
                why=it.why,
                applies=it.applies,
                followed=it.followed,
                how=it.how,
            )
            for it in plan.advice
        ],
        device=fleet.device_name or fleet.device,
    )


def _plan_findings(plan: Plan) -> Iterable[common_pb2.Finding]:
    replaced = [
        common_pb2.Finding(level=common_pb2.Finding.LEVEL_INFO, code="replaced", message=it.message)
        for it in plan.resolution.notices
    ]
    return [*map(finding, plan.findings), *replaced]


def job_estimate(plan: Plan, predicted: Estimate, fleet: Fleet) -> trainer_pb2.JobEstimate:
    """Of a plan."""
    needed = predicted.memory
    return trainer_pb2.JobEstimate(
        recipe=explanation(plan, fleet),
        data=figures(plan.figures),
        train_rows=predicted.train_rows,
        held_out_rows=predicted.held_out_rows,
        tokens=predicted.tokens,
        steps=predicted.steps,
        trainable_parameters=predicted.trainable_parameters,
        adapter_bytes=predicted.adapter_bytes,
        memory=trainer_pb2.MemoryEstimate(
            weights=needed.weights,
            adapter=needed.adapter,
            activations=needed.activations,
            working=needed.working,
            overhead=needed.overhead,
            peak=needed.peak,
            device=predicted.memory_bytes or 0,
        ),
        seconds=predicted.seconds,
        measured_speed=predicted.speed.measured,
        flops_per_second=predicted.speed.flops_per_second,
        fits=predicted.fits,
        remedies=predicted.remedies,
        micro_batch_tokens=predicted.micro_batch_tokens,
    )
