"""Why a job's own process gives up: the caller's data or recipe, or the machine."""

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
    """Loss or gradient stopped being a number. Deterministic, so trying again cannot help."""

    reason = FailureReason.USER_ERROR


class DeviceOutOfMemory(EngineError):
    """The device's memory is too small for the recipe."""

    reason = FailureReason.OUT_OF_MEMORY
