"""What becomes of a request before any device is touched: the recipe resolved and explained, linted, estimated, admitted.

Owns the order of these and what refuses a job. Each part is pure and has a module of its own; this one knows the backbone, the
device and what was measured on it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adapter_store.base import BaseInfo
from adapter_store.manifest import DatasetFinding, DatasetManifest
from trainer_service.core.architecture import architecture
from trainer_service.core.calibration import Calibrations
from trainer_service.core.errors import DoesNotFit, InvalidRecipe
from trainer_service.core.estimate import Estimate, estimate, unseen
from trainer_service.core.events import Notice, NoticeLevel
from trainer_service.core.findings import Finding, Level
from trainer_service.core.inspection import Figures
from trainer_service.core.recipe import Resolution, explain
from trainer_service.core.recipe_advice import Advice, advise
from trainer_service.core.recipe_lint import lint
from trainer_service.core.recipe_values import Fleet, Recipe, RecipeRequest


@dataclass(frozen=True, slots=True)
class Plan:
    """A request thought through."""

    resolution: Resolution
    findings: tuple[Finding, ...]
    """About recipe, data and memory; errors first."""
    advice: tuple[Advice, ...]
    figures: Figures
    estimate: Estimate | None
    """None where the backbone's shapes are not known."""

    @property
    def recipe(self) -> Recipe:
        """As resolved."""
        return self.resolution.recipe

    def notices(self) -> list[Notice]:
        """Returns the job's first events: what was replaced, and the warnings."""
        warnings = [
            Notice(level=NoticeLevel.WARNING, message=it.in_words())
            for it in self.findings
            if it.level is Level.WARNING
        ]
        return [*self.resolution.notices, *warnings]


class Planner:
    """Plans jobs for one backbone on one device."""

    def __init__(self, base: BaseInfo, fleet: Fleet, calibrations: Calibrations) -> None:
        self._base, self.fleet, self._calibrations = base, fleet, calibrations
        self._shape = architecture(base)

    def plan(
        self,
        request: RecipeRequest,
        *,
        rows: int,
        figures: Figures | None = None,
        data: Sequence[DatasetFinding] = (),
    ) -> Plan:
        """Thinks a request through.

        Args:
            request: what the caller set.
            rows: of the data set.
            figures: how long they are; None: reckon with rows as long as the recipe lets them be.
            data: what was found in the data set when it was uploaded.

        Raises:
            InvalidRecipe: a value that cannot work.
        """
        resolution = explain(request, rows=rows, fleet=self.fleet)
        recipe = resolution.recipe
        known = figures or unseen(rows, recipe)
        predicted = self.estimate(recipe, known)
        found = [*lint(recipe, rows=rows, fleet=self.fleet), *_of_data(data), *self._of_memory(predicted)]
        return Plan(
            resolution=resolution,
            findings=tuple(sorted(found, key=lambda it: it.level is not Level.ERROR)),
            advice=advise(recipe, rows=rows, fleet=self.fleet),
            figures=known,
            estimate=predicted,
        )

    def admit(self, request: RecipeRequest, dataset: DatasetManifest) -> Plan:
        """Plans a job, or refuses it.

        Raises:
            InvalidRecipe: a value that cannot work, or a finding that is an error.
            DoesNotFit: the device is too small, even for one row a pass.
        """
        plan = self.plan(request, rows=dataset.rows, data=dataset.findings)
        if plan.estimate is not None and not plan.estimate.fits:
            remedies = ", or ".join(plan.estimate.remedies)
            raise DoesNotFit(f"{_too_large(plan.estimate, self.fleet)}; what would make it fit: {remedies}")
        if errors := [it for it in plan.findings if it.level is Level.ERROR]:
            raise InvalidRecipe(f"recipe: {'; '.join(it.in_words() for it in errors)}")
        return plan

    def estimate(self, recipe: Recipe, figures: Figures) -> Estimate | None:
        """Predicts a job; None where the backbone's shapes are not known."""
        if self._shape is None:
            return None
        fleet = self.fleet
        speed = self._calibrations.speed(
            device=fleet.device,
            device_name=fleet.device_name,
            threads=fleet.threads,
            base=self._base.digest,
            bits=recipe.bits,
        )
        return estimate(self._shape, recipe, figures, fleet, speed)

    def _of_memory(self, predicted: Estimate | None) -> Iterable[Finding]:
        if predicted is None:
            return
        if not predicted.fits:
            yield Finding(
                level=Level.ERROR,
                code="memory",
                message=_too_large(predicted, self.fleet),
                fix=", or ".join(predicted.remedies),
            )
        elif predicted.micro_batch_tokens < self.fleet.micro_batch_tokens:
            text = (
                f"passes of {self.fleet.micro_batch_tokens} tokens may not fit the device; "
                f"{predicted.micro_batch_tokens} should"
            )
            fix = "smaller passes are tried by themselves when memory runs out; GRAFT_TRAINER_MICRO_BATCH_TOKENS sets them"
            yield Finding(level=Level.WARNING, code="micro_batch", message=text, fix=fix)


def _too_large(predicted: Estimate, fleet: Fleet) -> str:
    have = (predicted.memory_bytes or 0) / 1e9
    device = fleet.device_name or "the device"
    return f"the job needs about {predicted.memory.peak / 1e9:.1f} GB, and {device} has {have:.1f} GB"


def _of_data(found: Sequence[DatasetFinding]) -> list[Finding]:
    return [Finding(level=Level(it.level), **it.model_dump(exclude={"level"})) for it in found if it.level == "warning"]
