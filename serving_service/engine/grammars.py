"""Constraints on answers, from our form to vLLM's, and the trial before the engine sees one.

vLLM prepares a constraint partly on its caller's event loop and partly inside EngineCore, without a bound on time or
memory: one schema could stall all tenants. So each new one is compiled once in a process of its own (`grammar_child`), and
only what came through there in time goes on. Owns that process and the memory of what came through.
"""

import asyncio
import contextlib
import hashlib
import json
import sys
from collections import OrderedDict
from typing import Any

import structlog

from serving_service.engine.protocol import Constraint, ConstraintKind, EngineUnavailable, ParametersRefused

_KEPT = 4096  # digests of constraints that came through
_LINE_BYTES = 64 << 20
_WALL_SECONDS = 60.0
"""For one answer of the child, on however busy a machine; its own limit is CPU time."""

log = structlog.get_logger(__name__)


def structured_outputs(constraint: Constraint | None) -> Any:
    """Returns vLLM's StructuredOutputsParams."""
    if constraint is None:
        return None
    from vllm.sampling_params import StructuredOutputsParams

    match constraint.kind:
        case ConstraintKind.JSON_SCHEMA:
            return StructuredOutputsParams(json=constraint.text)
        case ConstraintKind.JSON_OBJECT:
            return StructuredOutputsParams(json_object=True)
        case ConstraintKind.REGEX:
            return StructuredOutputsParams(regex=constraint.text)
        case ConstraintKind.CHOICES:
            return StructuredOutputsParams(choice=list(constraint.choices))


def off_the_loop(prompt: Any) -> Any:
    """A prompt of tokens in the form that makes vLLM check the request, its constraint included, in a thread of its own."""
    return {key: prompt[key] for key in ("prompt_token_ids", "cache_salt") if prompt.get(key) is not None}


class Grammars:
    """Tries constraints out.

    Args:
        tokenizer: of transformers.
        vocabulary: how many tokens the model scores.
        seconds: of CPU time that preparing one may take.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, seconds: float) -> None:
        self._tokenizer, self._vocabulary, self._seconds = tokenizer, vocabulary, seconds
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._turn = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None

    async def check(self, params: Any) -> None:
        """Returns when vLLM's StructuredOutputsParams can be followed.

        Raises:
            ParametersRefused: it cannot, or preparing it takes too long.
        """
        job = _job(params)
        if job is None:
            return
        digest = hashlib.sha256(json.dumps(job).encode()).digest()
        if digest not in self._known:
            async with self._turn:
                answer = await self._ask(job)
            if error := answer.get("error"):
                raise ParametersRefused(f"the answer's constraint {error}", "response_format")
        self._known[digest] = None
        self._known.move_to_end(digest)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)

    async def close(self) -> None:
        """Ends the child; idempotent."""
        child, self._child = self._child, None
        if child is not None and child.stdin is not None:
            child.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def _ask(self, job: dict[str, str]) -> dict[str, Any]:
        done = False
        try:
            async with asyncio.timeout(_WALL_SECONDS):
                child = await self._running()
                answer = await _exchange(child, job)
            done = True
        except (TimeoutError, OSError, ValueError) as error:
            log.error("the process that tries out constraints does not answer", cause=type(error).__name__)
            raise EngineUnavailable("constraints cannot be prepared now; try again in a few seconds") from error
        finally:
            if not done:  # also when the caller has gone: the next answer would be this one's
                await self.close()
        return answer

    async def _running(self) -> asyncio.subprocess.Process:
        if self._child is None or self._child.returncode is not None:
            info = await asyncio.to_thread(self._tokenizer_info)
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "serving_service.engine.grammar_child"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,  # the library warns with the tenant's own text
                limit=_LINE_BYTES,
            )
            await _exchange(self._child, {"tokenizer": info, "seconds": self._seconds})
        return self._child

    def _tokenizer_info(self) -> str:
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(self._tokenizer, vocab_size=self._vocabulary)
        return str(info.serialize_json())


async def _exchange(child: asyncio.subprocess.Process, message: dict[str, Any]) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(message).encode() + b"\n")
    await child.stdin.drain()
    return dict(json.loads(await child.stdout.readline()))


def _job(params: Any) -> dict[str, str] | None:
    if params.json is not None:
        return {"kind": "json", "text": params.json if isinstance(params.json, str) else json.dumps(params.json)}
    if params.regex is not None:
        return {"kind": "regex", "text": params.regex}
    if params.structural_tag is not None:
        return {"kind": "structural_tag", "text": params.structural_tag}
    if params.choice is not None:
        from vllm.v1.structured_output.utils import choice_as_grammar

        return {"kind": "grammar", "text": choice_as_grammar(params.choice)}
    if params.grammar is not None:
        return {"kind": "grammar", "text": params.grammar}
    return None  # any JSON object: the same for everybody
