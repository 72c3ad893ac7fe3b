"""A store that is away is waited for, told of once, and not for ever."""

import pytest

from adapter_store.errors import StoreUnavailable
from trainer_service.core.events import Notice
from trainer_service.engine import patience
from trainer_service.engine.patience import Patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only in pauses."""
    now = [0.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def failing(times: int) -> list[int]:
    return list(range(times))


def test_a_store_that_comes_back_is_told_of_once(clock: list[float]) -> None:
    told: list[Notice] = []
    left = failing(6)

    def call() -> str:
        if left:
            left.pop()
            raise StoreUnavailable("no answer")
        return "done"

    assert Patience(30, told.append).call("publish the version", call) == "done"
    assert [notice.message for notice in told] == ["cannot publish the version: no answer; trying again for 30 s"]
    assert 5 < clock[0] < 30


def test_patience_ends(clock: list[float]) -> None:
    def call() -> None:
        raise StoreUnavailable("no answer")

    with pytest.raises(StoreUnavailable):
        Patience(30, lambda notice: None).call("fetch the data set", call)
    assert 20 < clock[0] <= 30
    with pytest.raises(StoreUnavailable):
        Patience(0, lambda notice: None).call("fetch the data set", call)


def test_any_other_error_is_not_waited_for(clock: list[float]) -> None:
    with pytest.raises(KeyError):
        Patience(30, lambda notice: None).call("open the store", lambda: {}["missing"])
    assert clock[0] == 0.0
