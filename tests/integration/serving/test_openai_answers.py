"""The unmodified `openai` client: the same answers as over gRPC and of the reference, streamed or whole, and held to a form."""

import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import openai
import pytest

from graftwork.v1 import serving_pb2
from tests.integration.serving.serving_world import Service, World

pytestmark = pytest.mark.slow

MESSAGES: Any = [{"role": "user", "content": "hi there "}]
BY_HAND = "<|user|>\nhi there<|end|>\n<|assistant|>\n"
SCHEMA = {
    "type": "object",
    "properties": {"who": {"type": "string", "maxLength": 6}, "level": {"enum": ["low", "high"]}},
    "required": ["who", "level"],
    "additionalProperties": False,
}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": SCHEMA}}
BLANKS = ("5", "6")
"""Newline and space: a model that has learned nothing would go on with them where JSON allows it."""
TOOLS: Any = [{"type": "function", "function": {"name": "open_ticket", "description": "x", "parameters": SCHEMA}}]


def client_of(service: Service, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0, timeout=120)


def test_models_are_the_base_and_the_tenants_own(client: openai.OpenAI, service: Service, world: World) -> None:
    version = world.versions["acme"].version
    world.store.aliases.set("acme", "task", "beta", version, by="tests", reason="tests")
    models = {model.id: model for model in client.models.list()}
    assert {world.base.model_id, "task"} <= models.keys()
    assert {model.owned_by for model in models.values()} == {"graftwork", "acme"}
    for name in ("task", "task:prod", "task:beta", f"task@{version}"):
        found = client.models.retrieve(name)
        assert (found.id, found.owned_by, found.model_extra["root"]) == (name, "acme", version)  # type: ignore[index]
    with client_of(service, world.operator_key) as operator:
        seen = [model.id for model in operator.models.list(extra_headers={"x-graft-tenant": "globex"})]
    assert "task" in seen
    assert "task:beta" not in seen


@pytest.mark.parametrize("tenant", ["acme", "globex", None])
def test_greedy_answers_equal_grpc_and_the_reference(
    service: Service, world: World, reference: Callable[..., str], tenant: str | None
) -> None:
    key = tenant or "acme"
    model = "task" if tenant else world.base.model_id
    with client_of(service, world.keys[key]) as client:
        text = client.completions.create(model=model, prompt="name:Ada", temperature=0, max_tokens=20)
        chat = client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, max_tokens=20)
    asked = "task" if tenant else ""
    assert text.choices[0].text == service.generate(key, asked, "name:Ada", max_tokens=20).text
    assert text.choices[0].text == reference(tenant, "name:Ada", 20)
    assert chat.choices[0].message.content == reference(tenant, BY_HAND, 20)
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == service.generate(key, asked, BY_HAND).finished.usage.prompt_tokens


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="task", messages=MESSAGES, temperature=0, max_tokens=24)
    stream = client.chat.completions.create(
        model="task",
        messages=MESSAGES,
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    pieces = client.completions.create(model="task", prompt="abc", temperature=0, max_tokens=8, stream=True)
    once = client.completions.create(model="task", prompt="abc", temperature=0, max_tokens=8)
    assert "".join(chunk.choices[0].text for chunk in pieces) == once.choices[0].text


def test_headers_say_what_answered(client: openai.OpenAI, world: World) -> None:
    version = world.versions["acme"].version
    answer = client.chat.completions.with_raw_response.create(
        model=f"task@{version}", messages=MESSAGES, temperature=0, max_tokens=2
    )
    assert answer.headers["x-graft-version"] == version
    assert answer.headers["x-graft-route"] == "swapped"
    assert answer.headers["x-graft-tier"] in {"store", "disk", "host", "device"}
    assert answer.headers["x-request-id"]
    base = client.completions.with_raw_response.create(model="", prompt="abc", max_tokens=2)
    assert base.headers["x-graft-route"] == "base"
    assert "x-graft-version" not in base.headers


def test_n_seed_and_stop(client: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(model="task", messages=MESSAGES, n=3, seed=seed, max_tokens=12)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = ask(7)
    assert first == ask(7) != ask(8)
    assert len(set(first)) > 1
    whole = client.completions.create(model="task", prompt="abc", temperature=0, max_tokens=20).choices[0].text
    cut = client.completions.create(model="task", prompt="abc", temperature=0, max_tokens=20, stop=[whole[3:5]])
    assert cut.choices[0].text == whole[: whole.index(whole[3:5])]
    assert cut.choices[0].finish_reason == "stop"


def test_log_probabilities_are_grpcs(client: openai.OpenAI, service: Service) -> None:
    answer = client.chat.completions.create(
        model="task", messages=MESSAGES, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    assert answer.choices[0].logprobs is not None
    places = answer.choices[0].logprobs.content or []
    assert len(places) == 5
    for place in places:
        assert len(place.top_logprobs) == 3
        assert place.top_logprobs[0].logprob == max(one.logprob for one in place.top_logprobs)
        assert place.logprob == place.top_logprobs[0].logprob, "greedy"
    sampling = serving_pb2.Sampling(temperature=0, max_tokens=5)
    request = serving_pb2.GenerateRequest(model="task", prompt=BY_HAND, sampling=sampling, top_logprobs=3)
    parts = list(service.stub.Generate(request, metadata=service.as_tenant("acme"), timeout=60))
    scores = [part.scores for part in parts if part.WhichOneof("part") == "scores"]
    found = [logprob for score in scores for place in score.top for logprob in place.logprobs]
    expected = [one.logprob for place in places for one in place.top_logprobs]
    assert found == pytest.approx(expected, abs=1e-3)
    assert [number for score in scores for number in score.token_ids] == [
        place.token_ids[0] for score in scores for place in score.top
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_json_schema_holds(client: openai.OpenAI, stream: bool) -> None:
    ask: Any = client.chat.completions.create
    answer = ask(model="task", messages=MESSAGES, temperature=0, max_tokens=100, response_format=FORM, stream=stream)
    text = (
        "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        if stream
        else answer.choices[0].message.content
    )
    jsonschema.validate(json.loads(text), SCHEMA)


def test_a_regular_expression_and_choices_hold(client: openai.OpenAI) -> None:
    pattern = "[a-c]{3}-[0-9]{2}"
    answer = client.completions.create(
        model="task", prompt="abc", seed=1, max_tokens=20, extra_body={"structured_outputs": {"regex": pattern}}
    )
    assert re.fullmatch(pattern, answer.choices[0].text)
    for texts in (["yes", "no"], ["quite so"]):
        body = {"structured_outputs": {"choice": texts}}
        chosen = client.chat.completions.create(model="task", messages=MESSAGES, max_tokens=20, extra_body=body)
        assert chosen.choices[0].message.content in texts


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "open_ticket"}}])
def test_a_tool_is_called_as_its_schema_says(client: openai.OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        model="task",
        messages=MESSAGES,
        temperature=0,
        max_tokens=300,
        tools=TOOLS,
        tool_choice=choice,
        parallel_tool_calls=False,  # or the model goes on calling until the answer is cut
        logit_bias=dict.fromkeys(BLANKS, -100),
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    for call in calls:
        assert call.type == "function"
        assert call.function.name == "open_ticket"
        jsonschema.validate(json.loads(call.function.arguments), SCHEMA)


def test_tools_that_are_not_called_change_no_answer(client: openai.OpenAI) -> None:
    ask: Any = client.chat.completions.create
    plain = ask(model="task", messages=MESSAGES, temperature=0, max_tokens=12)
    offered = ask(model="task", messages=MESSAGES, temperature=0, max_tokens=12, tools=TOOLS, tool_choice="none")
    assert offered.choices[0].message.content == plain.choices[0].message.content
    assert not offered.choices[0].message.tool_calls
