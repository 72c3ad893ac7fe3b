"""Calls of tools and JSON objects for the unmodified `openai` client: streamed, of the model's own accord, and answered."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import openai
import pytest

from tests.integration.serving.own_template import by_hand
from tests.integration.serving.serving_world import Service, World
from tests.integration.serving.taught_adapter import teach

pytestmark = pytest.mark.slow

MESSAGES: Any = [{"role": "user", "content": "hi there"}]
RENDERED = "<|user|>\nhi there<|end|>\n<|assistant|>\n"
SCHEMA = {
    "type": "object",
    "properties": {"who": {"type": "string", "maxLength": 6}, "level": {"enum": ["low", "high"]}},
    "required": ["who", "level"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "open_ticket", "description": "x", "parameters": SCHEMA}}]
NAMED = {"type": "function", "function": {"name": "open_ticket"}}
CALL = '<tool_call>\n{"name": "open_ticket", "arguments": {"who": "Ada", "level": "dire"}}\n</tool_call><|end|>'
"""What the taught adapter wants to say. Its level is none of the schema's."""
FORM: Any = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": SCHEMA}}
BLANKS = dict.fromkeys(("5", "6"), -100)
"""Newline and space: a model that has learned nothing would go on with them where JSON allows it."""
NO_SPECIALS = dict.fromkeys(map(str, range(5)), -100)


def token_of(character: str) -> str:
    """The number that the miniature's tokenizer has for a character, as `logit_bias` takes it."""
    return str(ord(character) - 32 + 6)


@dataclass
class Said:
    """What a client has of an answer, whole or put together from its pieces."""

    text: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)
    ended: str | None = None
    pieces: int = 0

    @classmethod
    def of_stream(cls, chunks: Iterable[Any]) -> "Said":
        """As OpenAI's documents say to put pieces together: by index, texts appended, the rest from the first."""
        said = cls()
        for choice in (chunk.choices[0] for chunk in chunks if chunk.choices):
            said.text += choice.delta.content or ""
            said.ended = choice.finish_reason or said.ended
            for piece in choice.delta.tool_calls or []:
                said.pieces += 1
                if piece.index == len(said.calls):
                    assert piece.id
                    assert piece.type == "function"
                    said.calls.append({"id": piece.id, "name": piece.function.name, "arguments": ""})
                else:
                    assert piece.index == len(said.calls) - 1
                    assert not piece.function.name
                said.calls[-1]["arguments"] += piece.function.arguments or ""
        return said

    @classmethod
    def of_answer(cls, answer: Any) -> "Said":
        choice = answer.choices[0]
        calls = [
            {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
            for call in choice.message.tool_calls or []
        ]
        return cls(choice.message.content or "", calls, choice.finish_reason)


def ask(client: openai.OpenAI, *, stream: bool = False, **more: Any) -> Said:
    create: Any = client.chat.completions.create
    asked = {"model": "task", "messages": MESSAGES, "temperature": 0, "max_tokens": 200, "tools": TOOLS, **more}
    answer = create(**asked, stream=stream)
    return Said.of_stream(answer) if stream else Said.of_answer(answer)


def arguments_of(said: Said) -> Any:
    """Of its only call."""
    assert [call["name"] for call in said.calls] == ["open_ticket"], said
    arguments = json.loads(said.calls[0]["arguments"])
    jsonschema.validate(arguments, SCHEMA)
    return arguments


@pytest.fixture(scope="module")
def taught(world: World) -> str:
    """An adapter of acme's that calls the tool when it is greeted."""
    folder = teach(world.backbone, world.root / "adapters" / "taught", RENDERED, CALL)
    world.publish("acme", "taught", folder)
    return "taught"


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_streamed_call_put_together_is_the_whole_one(client: openai.OpenAI, choice: Any) -> None:
    more = {"tool_choice": choice, "parallel_tool_calls": False, "logit_bias": BLANKS}
    whole, streamed = ask(client, **more), ask(client, **more, stream=True)
    assert arguments_of(streamed) == arguments_of(whole)
    assert streamed.pieces > 2, "the arguments come as they are written"
    assert streamed.text == whole.text == ""
    # As in OpenAI's API: a call that was asked for by name is what the answer is, and it stops with it.
    assert streamed.ended == whole.ended == ("tool_calls" if choice == "required" else "stop")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", [{"tool_choice": "auto"}, {}], ids=["auto", "left-out"])
def test_tools_that_may_be_called_leave_an_answer_without_a_call_as_it_is(
    client: openai.OpenAI, choice: dict[str, Any], stream: bool
) -> None:
    """OpenAI's default. This adapter's template shows no tools, so that the prompt is the same."""
    more = {"max_tokens": 24, "logit_bias": NO_SPECIALS, "stream": stream}
    offered = ask(client, **choice, **more)
    assert offered == ask(client, tools=openai.omit, **more)
    assert len(offered.text) == 24


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", [{"tool_choice": "auto"}, {}], ids=["auto", "left-out"])
def test_a_call_of_the_models_own_accord_is_told_as_one_and_keeps_to_its_schema(
    client: openai.OpenAI, service: Service, taught: str, choice: dict[str, Any], stream: bool
) -> None:
    wanted = service.generate("acme", taught, RENDERED, max_tokens=100).text
    assert wanted == CALL.removesuffix("<|end|>"), "left to itself it breaks the schema"
    said = ask(client, model=taught, **choice, parallel_tool_calls=False, stream=stream)
    arguments = arguments_of(said)
    assert arguments["who"] == "Ada"
    assert (said.text, said.ended) == ("", "tool_calls")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_with_a_form_and_tools_is_a_call_or_the_form(client: openai.OpenAI, stream: bool) -> None:
    """Which one is the model's to say; here a bias against the first character of the other has it say so."""
    more = {"tool_choice": "auto", "parallel_tool_calls": False, "response_format": FORM, "stream": stream}
    call = ask(client, **more, logit_bias={**BLANKS, token_of("{"): -100})
    arguments_of(call)
    assert call.text == ""
    form = ask(client, **more, logit_bias={**BLANKS, token_of("<"): -100})
    jsonschema.validate(json.loads(form.text), SCHEMA)
    assert not form.calls


def test_what_a_tool_answered_reaches_the_model_with_the_call_it_answers(
    client: openai.OpenAI, own_template: str
) -> None:
    """The loop of every program with tools: what the client gave back is sent again as it is, with the tool's answer."""
    create: Any = client.chat.completions.create
    more = {"tool_choice": "required", "parallel_tool_calls": False, "logit_bias": BLANKS}
    first = create(model=own_template, messages=MESSAGES, temperature=0, max_tokens=200, tools=TOOLS, **more)
    asked = first.choices[0].message
    as_sent = asked.model_dump(exclude_none=True)
    answered = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "ticket 7 is open"}
    prompt = by_hand([*MESSAGES, as_sent, answered], ["open_ticket"])
    more = {"model": own_template, "temperature": 0, "max_tokens": 24, "logit_bias": NO_SPECIALS}
    complete: Any = client.completions.create
    plain = complete(prompt=prompt, **more)
    assert plain.usage.prompt_tokens == len(prompt)
    for call in (asked, {**as_sent, "content": None}):  # OpenAI's own servers write null where there is no text
        again = create(messages=[*MESSAGES, call, answered], tools=TOOLS, **more)
        assert again.choices[0].message.content == plain.choices[0].text
        assert again.usage == plain.usage


@pytest.mark.parametrize("stream", [False, True])
def test_a_json_object_is_one(client: openai.OpenAI, stream: bool) -> None:
    """Left to this bias, the answer would be brackets only; what JSON calls an object and no list is `{}`."""
    bias = {token_of("["): 100, token_of("}"): 90}
    more = {"tools": openai.omit, "logit_bias": bias, "max_tokens": 20, "stream": stream}
    assert ask(client, **more).text == "[" * 20
    said = ask(client, **more, response_format={"type": "json_object"})
    assert json.loads(said.text) == {}
    assert said.ended == "stop"
