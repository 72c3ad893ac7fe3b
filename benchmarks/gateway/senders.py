"""How a request is sent to each side, with as little of its own as possible: the load shares the machine's cores."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.gateway import wire
from benchmarks.gateway.load import Send
from graftwork.v1 import serving_pb2


def over_grpc(address: str, key: str, model: str = "") -> Send:
    """Our Generate; `model` names an adapter."""
    open_ones: list[wire.Connection] = []

    async def send(prompt: list[int], tokens: int) -> AsyncIterator[object]:
        if not open_ones:
            open_ones.append(await wire.connect(address, "/graftwork.v1.ServingService/Generate", key))
        sampling = serving_pb2.Sampling(temperature=0, max_tokens=tokens, ignore_eos=True)
        ids = serving_pb2.TokenIds(ids=prompt)
        request = serving_pb2.GenerateRequest(model=model, tokens=ids, sampling=sampling)
        answer = []
        async for piece in open_ones[0].call(request.SerializeToString()):
            answer.append(piece)
            yield piece
        last = serving_pb2.GenerateResponse.FromString((wire.messages(b"".join(answer)) or [b""])[-1])
        _all_came(last.finished.usage.completion_tokens, tokens)

    return send


def over_socket(path: str) -> Send:
    """The bare engine behind a Unix socket (`bare`): what any transport costs at the least."""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(prompt: list[int], tokens: int) -> AsyncIterator[object]:
        reader, writer = idle.pop() if idle else await asyncio.open_unix_connection(path)
        writer.write(json.dumps([prompt, tokens]).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n\n"):
            piece = await reader.read(1 << 16)
            if not piece:
                raise ConnectionError("the bare engine closed the connection; its log says why")
            answer += piece
            yield piece
        idle.append((reader, writer))
        _all_came(sum(json.loads(line)[0] for line in answer.split(b"\n") if line), tokens)

    return send


def over_http(address: str, key: str, model: str) -> Send:
    """OpenAI's completions, ours or vLLM's: the bytes of the events as they come, without a client library."""
    host, port = address.rsplit(":", 1)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(prompt: list[int], tokens: int) -> AsyncIterator[object]:
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        while idle and (idle[-1][0].at_eof() or idle[-1][1].is_closing()):
            idle.pop()  # the server has closed it between two rounds
        reader, writer = idle.pop() if idle else await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + data)
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            piece = await reader.read(1 << 16)
            if not piece:
                raise ConnectionError(f"{address} closed the connection: {answer[:300]!r}")
            answer += piece
            if b"data: " in piece:
                yield piece
            elif answer[9:12] not in (b"", b"200"):
                raise ConnectionError(f"{address} answered {answer[:600]!r}")
        idle.append((reader, writer))
        _all_came(tokens if f'"completion_tokens":{tokens}'.encode() in answer else -1, tokens)

    return send


def to_engine(llm: Any) -> Send:
    """AsyncLLM in this process."""
    from vllm.inputs.engine import tokens_input

    numbers = iter(range(1 << 60))

    async def send(prompt: list[int], tokens: int) -> AsyncIterator[object]:
        done = 0
        number = str(next(numbers))
        async with contextlib.aclosing(llm.generate(tokens_input(prompt), params_of(tokens), number)) as outputs:
            async for output in outputs:
                done += len(output.outputs[0].token_ids)
                yield output
        _all_came(done, tokens)

    return send


def params_of(tokens: int) -> Any:
    """The request that every side makes, as vLLM takes it."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA)


def _all_came(done: int, wanted: int) -> None:
    if done != wanted:
        raise AssertionError(f"{done} tokens came of {wanted}: the sides did not do the same work")
