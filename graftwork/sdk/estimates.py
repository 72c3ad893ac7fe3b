"""What a job would take: the result, and the call that gives it."""

from dataclasses import dataclass

from graftwork.sdk.calls import Api, Call
from graftwork.sdk.datasets import Finding
from graftwork.sdk.recipe import Recipe
from graftwork.v1 import trainer_pb2 as pb

_LOOK_TIMEOUT_S = 600.0  # some thousand rows of what may be a large file are tokenized


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEstimate:
    """What a job would take.

    Attributes:
        recipe: as it would be resolved. device: that it is for.
        findings: about recipe and rows; those of level ERROR are what the job would be refused for.
        train_rows, held_out_rows: how the rows would be shared out.
        tokens, steps: of the training, over all epochs.
        trainable_parameters, adapter_bytes: of the adapter.
        peak_bytes: of the device's memory. device_bytes: what the device has; 0: not known.
        seconds: training and evaluations. measured_speed: False: nothing was measured on this device yet, and it is a guess.
        fits: whether the memory is enough. remedies: what would make a job fit that does not.
    """

    recipe: Recipe
    device: str
    findings: tuple[Finding, ...]
    train_rows: int
    held_out_rows: int
    tokens: int
    steps: int
    trainable_parameters: int
    adapter_bytes: int
    peak_bytes: int
    device_bytes: int
    seconds: float
    measured_speed: bool
    fits: bool
    remedies: tuple[str, ...]

    @classmethod
    def of(cls, message: pb.JobEstimate) -> "JobEstimate":
        return cls(
            recipe=Recipe.of(message.recipe.recipe),
            device=message.recipe.device,
            findings=tuple(map(Finding.of, message.recipe.findings)),
            train_rows=message.train_rows,
            held_out_rows=message.held_out_rows,
            tokens=message.tokens,
            steps=message.steps,
            trainable_parameters=message.trainable_parameters,
            adapter_bytes=message.adapter_bytes,
            peak_bytes=message.memory.peak,
            device_bytes=message.memory.device,
            seconds=message.seconds,
            measured_speed=message.measured_speed,
            fits=message.fits,
            remedies=tuple(message.remedies),
        )


def estimate_job(parent: str, dataset: str, recipe: Recipe) -> Call[JobEstimate]:
    request = pb.EstimateJobRequest(parent=parent, dataset=dataset, recipe=recipe.message())
    return Call(Api.TRAINER, "EstimateJob", request, JobEstimate.of, _LOOK_TIMEOUT_S)
