"""What the machine refused is named, whatever wraps it; and looking for it ends."""

import errno

import pytest

from graftwork.errors import ErrorCode, GraftError
from graftwork.surroundings import DiskFull, NotPermitted, named


class Ours(GraftError):
    """Some error of ours."""

    code = ErrorCode.INVALID


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EROFS, NotPermitted)]
)
def test_a_failure_of_the_machine_is_named_through_what_wraps_it(number: int, kind: type[Exception]) -> None:
    error = RuntimeError("cannot write")
    error.__cause__ = ValueError("cannot write")
    error.__cause__.__cause__ = OSError(number, "refused")
    assert isinstance(named(error), kind)


def test_what_is_ours_already_stays() -> None:
    error = Ours("no")
    error.__cause__ = OSError(errno.ENOSPC, "full")
    assert named(error) is error


@pytest.mark.parametrize("kind", [Ours, RuntimeError])
def test_an_exception_that_is_its_own_cause_ends_the_search(kind: type[Exception]) -> None:
    """One that is kept and raised again `from` another that was raised from it."""
    error, other = kind("one"), RuntimeError("two")
    error.__cause__, other.__cause__ = other, error
    assert named(error) is error
