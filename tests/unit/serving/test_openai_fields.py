"""Which fields of OpenAI's API are honoured: nothing that is the server's to say, nothing beyond the limits, no surprise."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_service.api.http import body as bodies
from serving_service.api.http.fields import HONOURED, REFUSED, read
from serving_service.core.errors import InvalidRequest
from serving_service.core.prompt_limits import PromptLimits
from serving_service.engine.openai_protocol import Kind

LIMITS = PromptLimits(max_bytes=1000, max_messages=4)
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"prompt": "hi"}
BARE = {Kind.CHAT: CHAT, Kind.COMPLETION: COMPLETION}


def ask(kind: Kind = Kind.CHAT, **more: Any) -> dict[str, Any]:
    return read(kind, {**BARE[kind], **more}, LIMITS, 512)


@pytest.mark.parametrize("name", sorted(REFUSED))
@pytest.mark.parametrize("kind", list(Kind))
def test_what_is_not_the_clients_to_say_is_refused_by_name(name: str, kind: Kind) -> None:
    with pytest.raises(InvalidRequest, match=name) as refused:
        ask(kind, **{name: {"x": "y"}})
    assert refused.value.field == name
    assert name not in ask(kind, **{name: None})
    for harmless in REFUSED[name]:
        assert name not in ask(kind, **{name: harmless})


def test_nothing_is_both_honoured_and_refused() -> None:
    for names in HONOURED.values():
        assert not names & REFUSED.keys()


def test_unknown_fields_are_left_out() -> None:
    assert ask(metadata={"a": "b"}, user="me", store=True, temperature=0.5) == {**CHAT, "temperature": 0.5}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Kind.CHAT, "temperature", 3),
        (Kind.CHAT, "temperature", -0.1),
        (Kind.CHAT, "temperature", "hot"),
        (Kind.CHAT, "temperature", True),
        (Kind.CHAT, "temperature", 10**300),
        (Kind.CHAT, "top_p", 0),
        (Kind.CHAT, "n", 0),
        (Kind.CHAT, "n", 1000),
        (Kind.CHAT, "n", 1.5),
        (Kind.CHAT, "max_tokens", -1),
        (Kind.CHAT, "max_completion_tokens", 10**9),
        (Kind.CHAT, "seed", 2**64),
        (Kind.CHAT, "logprobs", 5),
        (Kind.CHAT, "top_logprobs", 1000),
        (Kind.CHAT, "stop", ["x"] * 1_000_000),
        (Kind.CHAT, "stop", [""]),
        (Kind.CHAT, "stop", [5]),
        (Kind.CHAT, "stop", {"a": 1}),
        (Kind.CHAT, "frequency_penalty", 5),
        (Kind.CHAT, "repetition_penalty", 0),
        (Kind.CHAT, "min_tokens", -1),
        (Kind.CHAT, "logit_bias", {str(number): 1 for number in range(5000)}),
        (Kind.CHAT, "logit_bias", [1]),
        (Kind.CHAT, "stop_token_ids", {"a": 1}),
        (Kind.CHAT, "bad_words", [""]),
        (Kind.CHAT, "messages", []),
        (Kind.CHAT, "messages", "hi"),
        (Kind.CHAT, "messages", ["hi"]),
        (Kind.CHAT, "messages", [{"role": "user", "content": "x"}] * 5),
        (Kind.CHAT, "messages", [{"role": "robot", "content": "x"}]),
        (Kind.CHAT, "messages", [{"role": "user", "content": "x" * 2000}]),
        (Kind.CHAT, "messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        (Kind.CHAT, "tools", [{}]),
        (Kind.CHAT, "tools", "x"),
        (Kind.CHAT, "tools", [{"type": "function", "function": {"name": "f"}}] * 100),
        (Kind.CHAT, "response_format", "json"),
        (Kind.CHAT, "response_format", {"type": "structural_tag"}),
        (Kind.CHAT, "response_format", {"type": "json_schema"}),
        (Kind.CHAT, "response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": []}}),
        (Kind.CHAT, "structured_outputs", {"grammar": "root ::= x"}),
        (Kind.CHAT, "structured_outputs", {"regex": "a", "choice": ["b"]}),
        (Kind.CHAT, "structured_outputs", {"choice": []}),
        (Kind.COMPLETION, "logprobs", 100),
        (Kind.COMPLETION, "logprobs", True),
        (Kind.COMPLETION, "max_tokens", 0),
        (Kind.COMPLETION, "prompt", ""),
        (Kind.COMPLETION, "prompt", []),
        (Kind.COMPLETION, "prompt", ["x"] * 100),
        (Kind.COMPLETION, "prompt", ["x", [1]]),
        (Kind.COMPLETION, "prompt", [-1]),
        (Kind.COMPLETION, "prompt", [1, True]),
        (Kind.COMPLETION, "prompt", [1] * 600),
        (Kind.COMPLETION, "prompt", {"a": 1}),
        (Kind.COMPLETION, "prompt", "x" * 2000),
    ],
)
def test_a_wrong_field_is_named(kind: Kind, field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(kind, **{field: value})
    assert field in {refused.value.field, refused.value.field.removeprefix("completion_")} or field.endswith("tokens")
    assert len(str(refused.value)) < 1000


def test_the_prompt_alone_may_be_asked_for() -> None:
    assert ask(Kind.COMPLETION, max_tokens=0, echo=True)["max_tokens"] == 0
    with pytest.raises(InvalidRequest):
        ask(max_tokens=0, echo=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(Kind), st.data())
def test_any_json_is_taken_or_refused_and_never_breaks(kind: Kind, data: st.DataObject) -> None:
    names = st.sampled_from(sorted(HONOURED[kind] | REFUSED.keys()))
    body = data.draw(st.dictionaries(names, JSON, max_size=5))
    try:
        taken = read(kind, {**BARE[kind], **body}, LIMITS, 512)
    except InvalidRequest:
        return
    assert taken.keys() <= HONOURED[kind]


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def test_bodies_beyond_the_limits_are_refused() -> None:
    bodies.check({"a": deep(50), "b": list(range(1000)), "c": "schön"})
    for wrong in ({"a": deep(100)}, {"a": list(range(400_000))}, {"a": "\ud800"}, {"\udfff": 1}):
        with pytest.raises(InvalidRequest):
            bodies.check(wrong)
