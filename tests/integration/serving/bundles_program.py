"""Run by test_serving_bundles_live.py in a process of its own, because the engine sets its environment: answers token by token, and
in bundles that last for ever.

usage: python bundles_program.py BACKBONE WORK_FOLDER
"""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving_service.engine import output_bundles
from serving_service.engine.openai_protocol import Kind
from serving_service.engine.protocol import Rendered, Sampling
from serving_service.engine.vllm_engine import VllmEngine
from serving_service.settings import ServingSettings

TOKENS = 24
VARIED = {"temperature": 2.0, "frequency_penalty": 2.0, "seed": 3}
"""So that a token is not like the one before."""
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


class Run:
    """Of a tenant that crowds others, or not."""

    tenant, lora, template, newcomer = "t", None, None, False

    def __init__(self, request_id: str, crowds: bool) -> None:
        self.request_id, self._crowds, self.tokens = request_id, crowds, 0

    def crowds(self) -> bool:
        return self._crowds

    def prompted(self, tokens: int) -> None:
        """Nothing is charged here."""

    def answered(self, tokens: int, visible: bool = True, finish_reason: str | None = None) -> None:
        self.tokens += tokens

    def failed(self, error: BaseException) -> None:
        raise error


class Asking:
    """One engine, asked the same in both ways."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine, self._asked = engine, 0

    def _name(self) -> str:
        self._asked += 1
        return f"r{self._asked}"

    async def own(self, crowds: Callable[[], bool] | None, end: int | None = None, **more: Any) -> dict[str, Any]:
        """Over gRPC; `end` is a token that ends the answer."""
        sampling = Sampling(max_tokens=TOKENS, ignore_eos=end is None, **VARIED, **more)
        prompt = Rendered([40, 41, 42], stop_token_ids=() if end is None else (end,))
        stream = self._engine.generate(self._name(), prompt, sampling, lora=None, tenant="t", crowds=crowds)
        deltas = [delta async for delta in stream]
        answers = sorted({delta.index for delta in deltas})
        return {
            "texts": ["".join(delta.text for delta in deltas if delta.index == one) for one in answers],
            "tokens": [sum(delta.tokens for delta in deltas if delta.index == one) for one in answers],
            "ends": [delta.finish_reason for delta in deltas if delta.finish_reason],
            "ids": [token for delta in deltas if delta.scores for token in delta.scores.token_ids],
            "scores": [score for delta in deltas if delta.scores for score in delta.scores.logprobs],
            "pieces": len(deltas),
        }

    async def openai(self, crowds: bool, **more: Any) -> dict[str, Any]:
        kind = Kind.CHAT if "messages" in more else Kind.COMPLETION
        body = {"model": "t", "stream": True, "max_tokens": TOKENS, "ignore_eos": True, **VARIED, **more}
        run = Run(self._name(), crowds)
        answer = await self._engine.answer(kind, body, run)
        if isinstance(answer, str):
            return {
                "texts": [choice["text"] for choice in json.loads(answer)["choices"]],
                "tokens": run.tokens,
                "pieces": 1,
            }
        texts, pieces = dict[int, str](), 0
        async for event in answer:
            if "[DONE]" not in event:
                choice = json.loads(event.removeprefix("data:"))["choices"][0]
                text = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
                texts[choice["index"]] = texts.get(choice["index"], "") + text
                pieces += bool(text)
        await answer.aclose()
        return {"texts": [texts[index] for index in sorted(texts)], "tokens": run.tokens, "pieces": pieces}


async def main(backbone: str, work: Path) -> None:
    settings = ServingSettings(
        store_url="file:///nowhere", operator_key_file=work / "key", cache_dir=work, max_loras=1, max_lora_rank=16,
        kv_cache_gib=0.1, max_num_seqs=8, dtype="float32", tool_parser="hermes",
    )  # fmt: skip
    output_bundles.BUNDLE_S = 3600.0
    engine = VllmEngine(backbone, settings)
    await engine.start()
    asking = Asking(engine)
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    ids = (await asking.own(None, logprobs=True))["ids"]
    over_grpc = {
        "plain": {},
        "two": {"n": 2},
        "ended": {"end": next(token for at, token in enumerate(ids) if at > TOKENS / 2 and token not in ids[:at])},
        "scored": {"logprobs": True, "top_logprobs": 2},
        "stopped": {"stop": ("\x00",)},
    }
    over_http = {
        "text": {"prompt": "hello"},
        "texts": {"prompt": ["hello", "there"]},
        "chat": chat,
        "whole": {"prompt": "hello", "stream": False},
        "tools": chat | {"tools": [TOOL]},
    }
    said = {
        name: [await asking.own(crowds, **more) for crowds in (None, lambda: False, lambda: True)]
        for name, more in over_grpc.items()
    } | {name: [await asking.openai(crowds, **more) for crowds in (False, True)] for name, more in over_http.items()}
    await engine.stop()
    print(json.dumps(said))  # noqa: T201  what the test reads


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
