"""Why a job's own process gives up: the caller's data or recipe, or the machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from trainer_service.core.states import FailureReason


class EngineError(Exception):
    """Base; `reason` decides whether the job is tried again."""

    reason: ClassVar[FailureReason] = FailureReason.SYSTEM_ERROR


class UnusableData(EngineError):
    """A row leaves nothing to learn, or a file does not match its digest."""

    reason = FailureReason.USER_ERROR


class UnusableRecipe(EngineError):
    """The recipe does not fit this backbone."""

    reason = FailureReason.USER_ERROR


class Diverged(EngineError):
    """Loss or gradient stopped being a number, again and again. Deterministic, so trying again cannot help."""

    reason = FailureReason.USER_ERROR


class DeviceOutOfMemory(EngineError):
    """The device's memory is too small for the recipe."""

    reason = FailureReason.OUT_OF_MEMORY


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""What CUDA's allocator, torch's CPU allocator and cuBLAS say."""


@contextmanager
def memory_errors_as(message: str) -> Iterator[None]:
    """Turns an allocation that failed, on whatever device, into one DeviceOutOfMemory.

    Args:
        message: what did not fit, and what would make it fit.

    Raises:
        DeviceOutOfMemory: in place of the library's error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise DeviceOutOfMemory(message) from error
        raise
