"""One table for every error code, on both ends of the wire."""

import grpc
import pytest

from graftwork.client.errors import BY_CODE
from graftwork.errors import ErrorCode
from graftwork.rpc.status import STATUS, code_of


def test_every_code_has_a_wire_status_and_a_client_error() -> None:
    assert set(STATUS) == set(ErrorCode)
    assert set(BY_CODE) == set(ErrorCode)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_code_survives_the_wire(code: ErrorCode) -> None:
    assert code_of(STATUS[code].grpc) is code


def test_no_code_is_ok_and_an_unknown_status_is_internal() -> None:
    assert grpc.StatusCode.OK not in {row.grpc for row in STATUS.values()}
    assert code_of(grpc.StatusCode.UNIMPLEMENTED) is ErrorCode.INTERNAL
