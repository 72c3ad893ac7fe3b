"""A chat is rendered with the template that its adapter was published with, by both ways in, and with no other adapter's."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from graftwork.v1 import serving_pb2
from tests.integration.serving.own_template import by_hand
from tests.integration.serving.serving_world import Answer, Service, World

pytestmark = pytest.mark.slow

TURNS = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "hi there"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "who am I?"},
]
BY_DEFAULT = (
    "<|system|>\nBe short.<|end|>\n<|user|>\nhi there<|end|>\n<|assistant|>\nhello<|end|>\n"
    "<|user|>\nwho am I?<|end|>\n<|assistant|>\n"
)
LONG = 24


def chat_over_grpc(service: Service, model: str) -> Answer:
    messages = serving_pb2.Messages(messages=[serving_pb2.Message(**turn) for turn in TURNS])
    sampling = serving_pb2.Sampling(temperature=0, max_tokens=LONG)
    request = serving_pb2.GenerateRequest(model=model, chat=messages, sampling=sampling)
    return Answer.read(service.stub.Generate(request, metadata=service.as_tenant("acme"), timeout=120))


def chat_over_http(client: openai.OpenAI, model: str, *, stream: bool = False) -> str:
    make: Any = client.chat.completions.create
    answer = make(model=model, messages=TURNS, temperature=0, max_tokens=LONG, stream=stream)
    if not stream:
        return str(answer.choices[0].message.content)
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer)


def test_a_chat_over_grpc_goes_through_its_own_adapters_template(
    service: Service, reference: Callable[..., str], own_template: str
) -> None:
    chat = chat_over_grpc(service, own_template)
    plain = service.generate("acme", own_template, by_hand(TURNS), max_tokens=LONG)
    assert chat.text == plain.text == reference("acme", by_hand(TURNS), LONG)
    assert chat.finished.usage.prompt_tokens == plain.finished.usage.prompt_tokens == len(by_hand(TURNS))
    # The same weights behind the default template: else the answers above would not tell which one was used.
    assert chat_over_grpc(service, "task").text == reference("acme", BY_DEFAULT, LONG) != chat.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_over_http_goes_through_its_own_adapters_template(
    client: openai.OpenAI, reference: Callable[..., str], own_template: str, stream: bool
) -> None:
    chat = chat_over_http(client, own_template, stream=stream)
    plain = client.completions.create(model=own_template, prompt=by_hand(TURNS), temperature=0, max_tokens=LONG)
    assert chat == plain.choices[0].text == reference("acme", by_hand(TURNS), LONG)
    assert chat_over_http(client, "task", stream=stream) == reference("acme", BY_DEFAULT, LONG) != chat


def test_templates_of_one_batch_do_not_mix(
    service: Service, world: World, client: openai.OpenAI, reference: Callable[..., str], own_template: str
) -> None:
    """The handlers of vLLM are shared by all requests; what is set for one must not be seen by the next."""
    models = [own_template, "task", world.base.model_id] * 3
    with ThreadPoolExecutor(2 * len(models)) as pool:
        over_http = pool.map(lambda model: chat_over_http(client, model), models)
        asked = ["" if model == world.base.model_id else model for model in models]
        over_grpc = pool.map(lambda model: chat_over_grpc(service, model).text, asked)
    wanted = [
        reference("acme", by_hand(TURNS), LONG),
        reference("acme", BY_DEFAULT, LONG),
        reference(None, BY_DEFAULT, LONG),
    ]
    assert list(over_http) == list(over_grpc) == wanted * 3
