"""What answers are kept back by: nothing is lost or told twice, nothing waits longer than it may, and not more is told than may be."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_service.engine import output_bundles
from serving_service.engine.output_bundles import BUNDLE_S, Bundles, bundled


def _output(name: str, *tokens: int, ends: bool = False, **more: Any) -> Any:
    plain = {"new_logprobs": None, "events": None, "new_prompt_logprobs_tensors": None}
    given = plain | {"finish_reason": 0 if ends else None} | more
    return SimpleNamespace(request_id=name, new_token_ids=list(tokens), **given)


class _Engine:
    """Two answers of one request, one of another, one that is not watched, and one that has left."""

    def __init__(self, rate: int = 0) -> None:
        self.now, self.crowds = 100.0, True
        states = {name: SimpleNamespace(external_req_id=name[0]) for name in ("a1", "a2", "b1", "c1")}
        self.bundles = Bundles(states, rate, lambda: self.now)
        for name in ("a", "b"):
            self.bundles.begin(name, lambda: self.crowds)

    def step(self, *outputs: Any) -> list[tuple[str, list[int]]]:
        return [(one.request_id, one.new_token_ids) for one in self.bundles.told(outputs)]


STEP = st.tuples(
    st.floats(0, 2 * BUNDLE_S), st.booleans(), st.lists(st.integers(1, 4), min_size=5, max_size=5), st.booleans()
)


@given(steps=st.lists(STEP, max_size=40))
def test_everything_is_told_once_in_order_and_in_time(steps: list[tuple[float, bool, list[int], bool]]) -> None:
    engine = _Engine()
    made: dict[str, list[int]] = {name: [] for name in ("a1", "a2", "b1", "c1", "d1")}
    told: dict[str, list[int]] = {name: [] for name in made}
    last: dict[str, float] = {}
    crowded: dict[str, bool] = {}
    for wait, engine.crowds, counts, ends in [*steps, (0.0, True, [1] * 5, True)]:
        engine.now += wait
        outputs = []
        for name, count in zip(made, counts, strict=True):
            tokens = list(range(len(made[name]), len(made[name]) + count))
            made[name] += tokens
            outputs.append(_output(name, *tokens, ends=ends))
        for name, tokens in engine.step(*outputs):
            told[name] += tokens
            last[name], crowded[name] = engine.now, engine.crowds
        for name in made:
            assert told[name] == made[name][: len(told[name])]
            if len(told[name]) < len(made[name]):
                assert name[0] in "ab", "only what is watched is kept"
                assert not ends
                assert crowded[name], "only where its tenant crowds others"
                assert engine.now - last[name] < BUNDLE_S
    assert told == made


@given(st.integers(1, 64), st.integers(50, 10_000), st.floats(0.0005, 0.1), st.booleans())
def test_all_answers_together_are_told_in_so_many_pieces_a_second_and_none_later_than_that_or_a_bundle_takes(
    answers: int, rate: int, step: float, crowds: bool
) -> None:
    now, apart = 100.0, min(answers / rate, BUNDLE_S)
    names = [f"r{number}" for number in range(answers)]
    bundles = Bundles({name: SimpleNamespace(external_req_id=name) for name in names}, rate, lambda: now)
    for name in names:
        bundles.begin(name, lambda: crowds)
    told = dict.fromkeys(names, 0)
    last, pieces = dict.fromkeys(names, now), -answers  # the first ones are told whatever they make
    for made in range(1, 101):
        for one in bundles.told([_output(name, made) for name in names]):
            told[one.request_id] += len(one.new_token_ids)
            last[one.request_id] = now
            pieces += 1
        assert all(told[name] == made or now - last[name] < (BUNDLE_S if crowds else apart) for name in names)
        now += step
    assert pieces <= answers / apart * (now - 100.0)
    if not crowds:
        if apart < 0.999 * step:
            assert pieces == 99 * answers, "each by itself, where that is not too much"
        else:
            assert pieces >= answers * ((now - 100.0 - 2 * step) / apart - 1), "no fewer than may be"


def test_what_a_step_has_of_others_is_counted_and_goes_as_it_comes() -> None:
    """Answers that are not watched, of a tenant's tools or texts that end them, take of what there is for all."""
    engine = _Engine(rate=100)
    engine.crowds = False
    engine.step(_output("a1", 1), _output("c1", 1))
    engine.now += 0.015
    assert engine.step(_output("a1", 2), _output("c1", 2)) == [("c1", [2])]
    engine.now += 0.006
    assert engine.step(_output("a1", 3), _output("c1", 3)) == [("a1", [2, 3]), ("c1", [3])]
    engine.now += 0.015
    assert engine.step(_output("a1", 4)) == [], "it was two that were told"
    engine.now += 0.006
    assert engine.step(_output("a1", 5)) == [("a1", [4, 5])]
    engine.now += 0.011
    assert engine.step(_output("a1", 6)) == [("a1", [6])], "alone"


def test_an_answers_first_token_and_its_end_are_told_at_once() -> None:
    engine = _Engine()
    assert engine.step(_output("a1", 1)) == [("a1", [1])]
    assert engine.step(_output("a1", 2), _output("a2", 3)) == [("a2", [3])], "each answer has a first one"
    assert engine.step(_output("a1", 4)) == []
    assert engine.step(_output("a1", 5, ends=True)) == [("a1", [2, 4, 5])]


def test_what_carries_more_than_tokens_is_told_at_once() -> None:
    for more in ({"new_logprobs": object()}, {"events": [object()]}, {"new_prompt_logprobs_tensors": object()}):
        engine = _Engine()
        engine.step(_output("a1", 1))
        engine.step(_output("a1", 2))
        assert engine.step(_output("a1", 3, **more)) == [("a1", [2, 3])]


def test_a_request_that_has_left_is_forgotten() -> None:
    engine = _Engine()
    engine.step(_output("b1", 1))
    assert engine.step(_output("b1", 2)) == []
    engine.bundles.end("b")
    assert engine.step(_output("b1", 3)) == [("b1", [3])], "nobody asked for the rest"
    engine.bundles.end("b")


async def test_what_the_engine_is_asked_for_goes_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_bundles, "BUNDLE_S", 3600.0)
    steps = iter(
        [SimpleNamespace(outputs=[_output("x1", 1)]), SimpleNamespace(outputs=[_output("x1", 2)], timestamp=2.0)]
    )

    async def take() -> Any:
        return next(steps)

    llm: Any = SimpleNamespace(
        engine_core=SimpleNamespace(get_output_async=take),
        output_processor=SimpleNamespace(request_states={"x1": SimpleNamespace(external_req_id="x")}),
    )
    bundles = bundled(llm, 0)
    bundles.begin("x", lambda: True)

    assert [one.new_token_ids for one in (await llm.engine_core.get_output_async()).outputs] == [[1]]
    taken = await llm.engine_core.get_output_async()
    assert (taken.outputs, taken.timestamp) == ([], 2.0)
