"""Over HTTP: keys, other tenants' models, input that cannot be, readers that go, and what is not there at all."""

import http.client
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import grpc
import openai
import pytest
from transformers import AutoTokenizer

from graftwork.v1 import serving_pb2
from tests.integration.serving.serving_world import Service, World, make_adapter, wait_until

pytestmark = pytest.mark.slow

CHAT: dict[str, Any] = {"model": "task", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


class Reply:
    """An answer as bytes on the wire give it."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers = response.status, response.headers
        self.body = json.loads(response.read())
        assert self.headers["x-request-id"]

    @property
    def error(self) -> dict[str, Any]:
        assert self.body["error"].keys() == {"message", "type", "param", "code"}
        return dict(self.body["error"])


def send(
    service: Service,
    key: str | None,
    data: Any,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    **headers: str,
) -> Reply:
    connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=120)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if key:
        named["authorization"] = f"Bearer {key}"
    body = data if isinstance(data, bytes) or data is None else json.dumps(data).encode()
    connection.request(method, path, body, named)
    reply = Reply(connection.getresponse())
    connection.close()
    return reply


def test_keys(service: Service, world: World) -> None:
    for key in (None, "gw_acme_wrong", "x" * 10_000, world.keys["acme"] + "0"):
        reply = send(service, key, CHAT)
        assert (reply.status, reply.error["type"]) == (401, "authentication_error")
    assert send(service, world.operator_key, CHAT).status == 400, "whose adapter?"
    assert send(service, world.operator_key, CHAT, x_graft_tenant="globex").status == 200


def test_another_tenants_model_is_as_one_that_is_missing(service: Service, world: World, client: openai.OpenAI) -> None:
    folder = make_adapter(world.backbone, world.root / "adapters" / "hidden", rank=8, seed=78)
    hidden = world.publish("globex", "hidden", folder).version
    shown = {}
    for name in ("hidden", "never-made"):
        replies = [send(service, world.keys["acme"], {**CHAT, "model": name})]
        replies += [send(service, world.keys["acme"], {**CHAT, "model": name}, x_graft_tenant="globex")]
        assert {reply.status for reply in replies} == {404}
        shown[name] = [{**reply.error, "message": reply.error["message"].replace(name, "?")} for reply in replies]
    assert shown["hidden"] == shown["never-made"]
    for model in ("hidden", f"hidden@{hidden}", f"task@{hidden}", "task:nope"):
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**{**CHAT, "model": model})
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(model)
    assert "hidden" not in [model.id for model in client.models.list()]


def deep(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize(
    ("data", "status", "param"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b"[]", 400, None),
        (b"null", 400, None),
        (b'{"model": "\xff\xfe"}', 400, None),
        (b'{"model": "\\ud800"}', 400, None),
        (b'{"temperature": NaN, "messages": []}', 400, None),
        (b'{"temperature": ' + b"9" * 5000 + b"}", 400, None),
        (deep(100_000), 400, None),
        (deep(100), 400, None),
        (b'{"prompt": [' + b"1," * 900_000 + b"1]}", 400, None),
        (b" " * (5 << 20), 413, None),
        ({**CHAT, "model": 5}, 400, "model"),
        ({**CHAT, "model": "no such name!"}, 400, None),
        ({**CHAT, "temperature": 1e999}, 400, None),
        ({**CHAT, "temperature": -1}, 400, "temperature"),
        ({**CHAT, "max_tokens": 10**18}, 400, "max_tokens"),
        ({**CHAT, "stop": ["x"] * 1_000_000}, 413, None),
        (b'{"stop": [' + b'"x",' * 1_000_000 + b'"x"]}', 400, None),
        ({**CHAT, "stop": ["x"] * 100_000}, 400, "stop"),
        ({**CHAT, "messages": [{"role": "user", "content": "y" * 600}]}, 400, None),
        ({**CHAT, "messages": [{"role": "user"}]}, 400, None),
        ({**CHAT, "messages": [{"role": "user", "content": 5}]}, 400, "messages"),
        ({**CHAT, "tool_choice": "required"}, 400, None),
        ({**CHAT, "logit_bias": {"x": 1}}, 400, None),
        ({**CHAT, "logit_bias": {"100000": 1}}, 400, None),
        ({**CHAT, "stop_token_ids": [10**12]}, 400, None),
        ({**CHAT, "cache_salt": "mine"}, 400, "cache_salt"),
        ({**CHAT, "lora_request": {"lora_path": "/etc"}}, 400, "lora_request"),
        ({**CHAT, "priority": -5}, 400, "priority"),
        ({**CHAT, "kv_transfer_params": {"do_remote_prefill": True}}, 400, "kv_transfer_params"),
        ({**CHAT, "chat_template": "{{ 1 }}"}, 400, "chat_template"),
    ],
)
def test_bad_input_is_named(service: Service, world: World, data: Any, status: int, param: str | None) -> None:
    reply = send(service, world.keys["acme"], data)
    assert reply.status == status, reply.body
    assert reply.error["type"] == "invalid_request_error"
    assert param is None or reply.error["param"] == param
    assert len(reply.error["message"]) < 1100


def test_a_token_that_the_tokenizer_does_not_know_is_refused_as_over_grpc(service: Service, world: World) -> None:
    unknown = len(AutoTokenizer.from_pretrained(world.backbone))
    with pytest.raises(grpc.RpcError) as refused:
        list(
            service.stub.Generate(
                serving_pb2.GenerateRequest(model="task", tokens=serving_pb2.TokenIds(ids=[1, unknown])),
                metadata=service.as_tenant("acme"),
            )
        )
    for prompt in ([1, unknown], [[1], [1, unknown]]):
        reply = send(service, world.keys["acme"], {"model": "task", "prompt": prompt}, "/v1/completions")
        assert reply.status == 400
        assert reply.error["message"] == refused.value.details()
        assert f"token {unknown} is not one" in reply.error["message"]


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
        {"structured_outputs": {"regex": "(["}},
        {"structured_outputs": {"regex": "x" * 5000}},
        {"structured_outputs": {"json": '{"a":' * 5000}},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_form_that_cannot_be_followed_is_refused_before_anything_is_sent(
    service: Service, world: World, form: dict[str, Any], stream: bool
) -> None:
    reply = send(service, world.keys["acme"], {**CHAT, **form, "stream": stream})
    assert (reply.status, reply.error["code"]) == (400, "invalid")


def test_fifty_megabytes_are_not_kept(service: Service, world: World) -> None:
    import psutil

    process = psutil.Process(service.process.pid)
    before = process.memory_info().rss
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(50):
            sent += 1
            yield b"x" * (1 << 20)

    connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=120)
    key = {"authorization": f"Bearer {world.keys['acme']}"}
    connection.request("POST", "/v1/completions", pieces(), key, encode_chunked=True)
    assert Reply(connection.getresponse()).status == 413
    assert sent == 50
    assert process.memory_info().rss - before < 30 << 20
    assert send(service, world.keys["acme"], CHAT).status == 200


def test_no_route_manages_the_engine_or_shows_pages(service: Service, world: World) -> None:
    paths = (
        "/v1/load_lora_adapter /v1/unload_lora_adapter /adapters /invocations /tokenize /detokenize /v1/responses "
        "/v1/embeddings /docs /redoc /openapi.json /docs/oauth2-redirect /version /server_info /reset_prefix_cache "
        "/sleep /wake_up /collective_rpc /start_profile /pause /v1/chat/completions/render /inference/v1/generate /"
    ).split()
    for path in paths:
        for method in ("GET", "POST"):
            for key in (world.keys["acme"], world.operator_key):
                assert send(service, key, b"{}", path, method).status == 404, path
    assert send(service, world.keys["acme"], None, "/v1/chat/completions", "GET").status == 405


def long_prompt(client: openai.OpenAI) -> str:
    """One whose greedy answer does not end by itself."""
    for prompt in map(str, range(100)):
        answer = client.completions.create(model="task", prompt=prompt, temperature=0, max_tokens=400)
        if answer.choices[0].finish_reason == "length":
            return prompt
    pytest.fail("every answer ends by itself")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_stops_its_generation(
    service: Service, world: World, client: openai.OpenAI, stream: bool
) -> None:
    prompt = long_prompt(client)
    row = f"acme/task@{world.versions['acme'].version}"
    body = {"model": "task", "prompt": prompt, "temperature": 0, "max_tokens": 400, "stream": stream, "n": 1}
    data = json.dumps(body).encode()
    host, port = urlsplit(service.url).netloc.split(":")
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {world.keys['acme']}\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode() + data)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        wait_until("the adapter is used", lambda: service.residents()[row].users, 30)
    wait_until("its lease is given back", lambda: not service.residents()[row].users, 30)
    service.evict("acme", "task", world.versions["acme"].version)
    assert client.chat.completions.create(**CHAT).choices


def test_streams_of_many_clients_do_not_mix(service: Service, world: World) -> None:
    """Tenants and the base at once over two slots, whole and streamed: everybody gets what they get alone."""

    def ask(row: tuple[str, bool]) -> str:
        tenant, stream = row
        with openai.OpenAI(base_url=f"{service.url}/v1", api_key=world.keys[tenant], max_retries=0) as client:
            make: Any = client.completions.create
            answer = make(model="task", prompt="0123456789", temperature=0, max_tokens=24, stream=stream)
            return "".join(one.choices[0].text for one in answer) if stream else answer.choices[0].text

    rows = [(tenant, stream) for tenant in ("acme", "globex", "initech") for stream in (True, False)] * 2
    with ThreadPoolExecutor(len(rows)) as pool:
        together = list(pool.map(ask, rows))
    for (tenant, _), text in zip(rows, together, strict=True):
        assert text == service.generate(tenant, "task", "0123456789", max_tokens=24).text
