"""The bare engine in a process of its own: AsyncLLM with our arguments behind a Unix socket, or under a load of its own.

The socket takes a line for each request (prompt and how many tokens) and gives a line for each piece (how many tokens,
their text), and an empty one at the end. Standard input takes a load a line for `inside`, the figures are answered a line.
Started by `sides`.
"""

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

from benchmarks.gateway.load import Load, measure
from benchmarks.gateway.senders import params_of, to_engine
from serving_service.engine.vllm_launch import build
from serving_service.settings import ServingSettings


async def serve(backbone: str, path: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is no answer
    llm = build(backbone, ServingSettings())  # type: ignore[call-arg]  # from the environment
    send = to_engine(llm)
    server = await asyncio.start_unix_server(Answerer(llm).answer, path)
    async with server:
        print(json.dumps({"ready": True}), file=answers, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            figures = await measure(Load(**json.loads(line)), send, os.getpid())
            print(json.dumps(figures.to_json()), file=answers, flush=True)
    llm.shutdown()


class Answerer:
    """Answers what comes over the socket with an AsyncLLM."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._numbers = iter(range(1 << 60))

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection, one request after the other."""
        from vllm.inputs.engine import tokens_input

        while line := await reader.readline():
            prompt, tokens = json.loads(line)
            number = f"s{next(self._numbers)}"
            outputs = self._llm.generate(tokens_input(prompt), params_of(tokens), number)
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    piece = output.outputs[0]
                    end = b"\n\n" if output.finished else b"\n"
                    writer.write(json.dumps([len(piece.token_ids), piece.text]).encode() + end)
        writer.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(*sys.argv[1:]))
