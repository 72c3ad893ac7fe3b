"""Errors over HTTP: OpenAI's shape for every code, nothing of an unknown one, and when to come again."""

import pytest

from graftwork.errors import ErrorCode, GraftError
from graftwork.rpc.status import STATUS
from serving_service.api.http.errors import MAX_MESSAGE_CHARS, TYPES, BodyTooLarge, failure_of
from serving_service.core.errors import InvalidRequest


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_its_status_and_shape(code: ErrorCode) -> None:
    kind = type("Some", (GraftError,), {"code": code})
    failure = failure_of(kind("what happened"), "id1")
    assert failure.status == STATUS[code].http
    assert failure.body == {
        "error": {"message": "what happened", "type": TYPES[code], "param": None, "code": code.value}
    }
    assert failure.headers == {"x-request-id": "id1"}


def test_the_table_of_types_is_total() -> None:
    assert set(TYPES) == set(ErrorCode)


def test_an_unknown_error_shows_nothing_but_the_id() -> None:
    failure = failure_of(RuntimeError("secret path /etc"), "id2")
    assert failure.status == 500
    assert "secret" not in str(failure.body)
    assert "id2" in failure.body["error"]["message"]


@pytest.mark.parametrize(("seconds", "header"), [(0.2, "1"), (3.01, "4"), (None, None)])
def test_a_limit_says_when_to_come_again(seconds: float | None, header: str | None) -> None:
    class Limited(GraftError):
        code = ErrorCode.EXHAUSTED
        retry_after_seconds = seconds

    failure = failure_of(Limited("over"), "id3")
    assert (failure.status, failure.headers.get("retry-after")) == (429, header)


def test_a_field_is_named_and_a_long_text_cut() -> None:
    failure = failure_of(InvalidRequest("x" * 5000, "stop"), "id4")
    assert failure.body["error"]["param"] == "stop"
    assert len(failure.body["error"]["message"]) <= MAX_MESSAGE_CHARS + 3
    assert failure_of(BodyTooLarge("big"), "id5").status == 413
