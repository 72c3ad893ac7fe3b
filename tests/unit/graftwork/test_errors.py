"""One table for every error code, on both ends of the wire."""

import grpc
import pytest

from graftwork.client.errors import BY_CODE, from_call
from graftwork.errors import ErrorCode
from graftwork.rpc.status import RETRY_AFTER_KEY, STATUS, code_of


def test_every_code_has_a_wire_status_and_a_client_error() -> None:
    assert set(STATUS) == set(ErrorCode)
    assert set(BY_CODE) == set(ErrorCode)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_code_survives_the_wire(code: ErrorCode) -> None:
    assert code_of(STATUS[code].grpc) is code


def test_no_code_is_ok_and_an_unknown_status_is_internal() -> None:
    assert grpc.StatusCode.OK not in {row.grpc for row in STATUS.values()}
    assert code_of(grpc.StatusCode.UNIMPLEMENTED) is ErrorCode.INTERNAL


class _Call(grpc.RpcError, grpc.Call):  # type: ignore[misc]  # grpc has no types
    """A refused call with one entry of trailing metadata."""

    def __init__(self, milliseconds: str) -> None:
        self._trailing = ((RETRY_AFTER_KEY, milliseconds),)

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self) -> str:
        return "over a limit"

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._trailing


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [("1500", 1.5), ("1", 0.001), ("", None), ("soon", None), ("-5", None), ("²", None)]
)
def test_the_retry_time_is_read_or_left_out(milliseconds: str, seconds: float | None) -> None:
    _Call.__abstractmethods__ = frozenset()
    error = from_call(_Call(milliseconds), "host:1")
    assert isinstance(error, BY_CODE[ErrorCode.EXHAUSTED])
    assert error.retry_after_seconds == seconds
