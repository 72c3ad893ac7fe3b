"""The bare engine in a process of its own: AsyncLLM with our arguments, and the load on the same event loop.

Reads a load a line, writes the figures a line. Started by `sides`.
"""

import asyncio
import json
import os
import sys

from benchmarks.gateway.load import Load, measure
from benchmarks.gateway.senders import to_engine
from serving_service.engine.vllm_launch import build
from serving_service.settings import ServingSettings


async def serve(backbone: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is no answer
    llm = build(backbone, ServingSettings())  # type: ignore[call-arg]  # from the environment
    send = to_engine(llm)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        figures = await measure(Load(**json.loads(line)), send)
        print(json.dumps(figures.to_json()), file=answers, flush=True)
    llm.shutdown()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
