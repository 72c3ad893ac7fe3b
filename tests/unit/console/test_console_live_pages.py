"""How traffic and residency are laid out: rates, percentiles, gaps in charts, the map of slots."""

import pytest

from graftwork.console.errors import WrongForm
from graftwork.console.forms import decimal_number
from graftwork.console.pages.residency import slots_of, way
from graftwork.console.pages.traffic import Line, percentiles, rate, series_of, spark
from graftwork.v1 import serving_pb2 as pb


@pytest.mark.parametrize(
    ("count", "seconds", "shown"),
    [(0, 60, "0.0"), (30, 60, "0.5"), (600, 60, "10"), (90_000, 60, "1\u202f500"), (5, 0.2, "\u2013")],
)
def test_rates_have_as_many_digits_as_people_read(count: float, seconds: float, shown: str) -> None:
    assert rate(count, seconds) == shown


def test_percentiles_of_nothing_are_not_zero_milliseconds() -> None:
    assert percentiles(pb.Percentiles()) == "\u2013"
    assert percentiles(pb.Percentiles(count=1, p50_ms=12.3, p95_ms=3456)) == "12 ms / 3.5 s"


def test_charts_show_rates_by_minutes_before_now_and_a_gap_where_nothing_was_measured() -> None:
    series = pb.TrafficSeries(
        step_seconds=5,
        requests=[0, 3],
        rejected=[0, 1],
        prompt_tokens=[0, 50],
        completion_tokens=[0, 10],
        first_token_p50_ms=[0, 20],
        first_token_p95_ms=[0, 30],
        whole_answer_p95_ms=[0, 0],
    )
    drawn = series_of(series)
    assert drawn["minutes"] == [-0.125, -0.042], "the middle of each step"
    assert (drawn["requests"], drawn["rejected"]) == ([0, 36], [0, 12])
    assert (drawn["tokens_in"], drawn["tokens_out"]) == ([0, 10], [0, 2])
    assert (drawn["first_p50"], drawn["whole_p95"]) == ([None, 20], [None, None])


def test_a_small_chart_spans_its_box_and_is_left_out_for_nothing() -> None:
    assert spark([0, 0]) == spark([]) == ""
    assert spark([1, 2]) == "M0 24L0.0 12.0L120.0 0.0L120 24Z"


def test_reasons_are_words_the_commonest_first() -> None:
    window = pb.TrafficWindow(rejections={"not_found": 1, "rate_limited": 1200})
    line = Line("acme", "acme", pb.TenantTraffic(), window)
    assert line.reasons == "rate limited 1\u202f200, not found 1"


def test_slots_are_where_the_engine_says_and_one_that_it_does_not_have_is_left_out() -> None:
    first, second = pb.Residency(adapter="a", slot=2), pb.Residency(adapter="b", slot=0)
    waiting, stale = pb.Residency(adapter="c"), pb.Residency(adapter="d", slot=9)
    assert slots_of([first, second, waiting, stale], 3) == [second, None, first]
    assert slots_of([first], 0) == []


def test_an_adapter_is_in_every_tier_that_holds_bytes_of_it() -> None:
    held = pb.Residency(tier=pb.TIER_HOST, disk_bytes=5, host_bytes=5)
    assert [(place.name, place.there, place.fastest) for place in way(held)] == [
        ("store", True, False),
        ("disk", True, False),
        ("memory", True, True),
        ("slot", False, False),
    ]


@pytest.mark.parametrize("text", ["", "warm", "-0.1", "2.1", "nan", "inf"])
def test_a_temperature_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(WrongForm, match="from 0 to 2"):
        decimal_number("temperature", text, most=2, zero=True)
    assert decimal_number("temperature", " 0,7 ", most=2, zero=True) == 0.7
