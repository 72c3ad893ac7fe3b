"""What may be asked of sampling, and of an answer's form: everything within the limits, nothing beyond."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_service.core import constraints
from serving_service.core.errors import InvalidRequest
from serving_service.core.sampling import MAX_N, MAX_STOPS, SamplingWish, resolve_sampling
from serving_service.engine.protocol import ConstraintKind

ANY_FLOAT = st.none() | st.floats() | st.floats(-3, 12)
ANY_INT = st.none() | st.integers() | st.integers(-3, 40)
WISHES = st.builds(
    SamplingWish,
    temperature=ANY_FLOAT,
    top_p=ANY_FLOAT,
    top_k=ANY_INT,
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    max_tokens=ANY_INT,
    stop=st.lists(st.text(max_size=300), max_size=MAX_STOPS + 2).map(tuple),
    logprobs=st.booleans(),
    prompt_logprobs=st.booleans(),
    top_logprobs=ANY_INT,
    n=ANY_INT,
    frequency_penalty=ANY_FLOAT,
    presence_penalty=ANY_FLOAT,
    repetition_penalty=ANY_FLOAT,
    min_p=ANY_FLOAT,
    ignore_eos=st.booleans(),
)


@given(WISHES, st.integers(1, 100_000))
def test_what_comes_through_is_within_vllms_limits(wish: SamplingWish, length: int) -> None:
    """The engine checks again and says so in other words; it must never have to."""
    try:
        made = resolve_sampling(wish, length)
    except InvalidRequest as refusal:
        refused = refusal
        made = None
    if made is None:
        assert refused.field
        assert refused.field in str(refused)
        return
    assert 0 <= made.temperature <= 2
    assert 0 < made.top_p <= 1
    assert made.top_k >= 0
    assert 1 <= made.max_tokens <= length
    assert 1 <= made.n <= MAX_N
    assert made.n == 1 or made.temperature > 0
    assert -2 <= made.frequency_penalty <= 2
    assert -2 <= made.presence_penalty <= 2
    assert 0 < made.repetition_penalty < math.inf
    assert 0 <= made.min_p <= 1
    assert 0 <= made.top_logprobs <= 20
    assert made.logprobs or not made.top_logprobs
    assert len(made.stop) <= MAX_STOPS
    assert all(made.stop)


def test_defaults_are_the_protos() -> None:
    made = resolve_sampling(SamplingWish(), 1000)
    assert (made.temperature, made.top_p, made.top_k, made.max_tokens, made.n) == (1.0, 1.0, 0, 256, 1)
    assert (made.repetition_penalty, made.frequency_penalty, made.min_p, made.constraint) == (1.0, 0.0, 0.0, None)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"a":' * 100_000, "longer"),
        ('{"a":' * 10_000, "not JSON"),
        (nested(40), "deeper"),
        ({"enum": list(range(20_000))}, "values"),
        ({"const": "x" * 70_000}, "longer"),
        (7, "JSON object"),
    ],
)
def test_schemas_beyond_the_limits_are_refused_by_name(schema: object, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        constraints.json_schema(schema, "the schema")
    assert refused.value.field == "the schema"


def test_a_schema_as_text_and_as_an_object_are_the_same() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    made = constraints.json_schema(schema, "schema")
    assert made == constraints.json_schema(json.dumps(schema), "schema")
    assert (made.kind, json.loads(made.text)) == (ConstraintKind.JSON_SCHEMA, schema)


@pytest.mark.parametrize("pattern", ["", "a\0b", "x" * 3000, None, 5])
def test_patterns_beyond_the_limits_are_refused(pattern: object) -> None:
    with pytest.raises(InvalidRequest):
        constraints.regex(pattern, "regex")


@pytest.mark.parametrize("texts", [[], [""], ["x"] * 300, "yes", ["y" * 2000], [1], None])
def test_choices_beyond_the_limits_are_refused(texts: object) -> None:
    with pytest.raises(InvalidRequest):
        constraints.choices(texts, "choices")


@given(st.recursive(st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_size_counts_every_value_once(value: object) -> None:
    def count(item: object) -> int:
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        return 1 + sum(map(count, inner))

    constraints.check_size(value, "it", nodes=count(value), depth=1000)
    with pytest.raises(InvalidRequest):
        constraints.check_size(value, "it", nodes=count(value) - 1, depth=1000)
