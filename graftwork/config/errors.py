"""What is wrong with somebody's settings, in one line that names the place and never a secret value."""

from collections.abc import Sequence
from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError


class ConfigError(GraftError):
    """Settings that nothing can be started with.

    Attributes:
        problems: one sentence each; names where the setting was found and what it may be.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INVALID

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(f"wrong settings: {'; '.join(problems)}")
        self.problems = tuple(problems)
