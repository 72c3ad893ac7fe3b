"""What a job would take: the result, and the call that gives it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from graftwork.sdk.calls import Api, Call
from graftwork.sdk.datasets import Finding
from graftwork.sdk.reading import read_fields
from graftwork.sdk.recipe import Recipe
from graftwork.sdk.validation import DatasetFigures
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
        memory: of which parts `peak_bytes` is made, in bytes: weights, adapter (with gradients and optimizer), activations,
            working (logits, or a layer that is computed again) and overhead.
        figures: of the rows' lengths. micro_batch_tokens: of one forward pass.
        seconds: training and evaluations. flops_per_second: that they are reckoned with. measured_speed: False: nothing was measured on this device yet, and it is a guess.
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
    memory: Mapping[str, int]
    figures: DatasetFigures
    micro_batch_tokens: int
    seconds: float
    flops_per_second: float
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
            memory=MappingProxyType(read_fields(message.memory, "weights adapter activations working overhead")),
            figures=DatasetFigures.of(message.data),
            micro_batch_tokens=message.micro_batch_tokens,
            seconds=message.seconds,
            flops_per_second=message.flops_per_second,
            measured_speed=message.measured_speed,
            fits=message.fits,
            remedies=tuple(message.remedies),
        )


def estimate_job(parent: str, data: str | DatasetFigures, recipe: Recipe) -> Call[JobEstimate]:
    """Takes a stored data set's name, or the figures of one that is not stored."""
    request = pb.EstimateJobRequest(parent=parent, recipe=recipe.message())
    if isinstance(data, DatasetFigures):
        request.figures.CopyFrom(data.message())
    else:
        request.dataset = data
    return Call(Api.TRAINER, "EstimateJob", request, JobEstimate.of, _LOOK_TIMEOUT_S)
