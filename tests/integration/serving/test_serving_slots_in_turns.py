"""One slot for three tenants' adapters, key/value blocks for two requests, and few pieces to tell answers in: turns, pauses, preemption and
bundles, in the real engine."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from graftwork.v1 import serving_pb2
from serving_service.engine.output_bundles import BUNDLE_S
from tests.integration.serving.serving_world import TENANTS, Answer, Service, World

pytestmark = pytest.mark.slow

LONG = 400
"""Tokens of an answer that does not end by itself."""


@pytest.fixture(scope="module")
def narrow(run_service: Callable[..., Service]) -> Service:
    # 512 bytes a token, 128 tokens a block: 9 blocks, of which a request of these tests needs 4.
    return run_service(max_loras=1, max_adapters_in_flight=8, kv_cache_gib=0.0006, pieces_per_second=5).ready()


def test_answers_are_right_whatever_is_paused_or_pushed_out(
    narrow: Service, world: World, reference: Callable[..., str]
) -> None:
    """Long prompts, more together than a step's tokens, and long answers of three adapters and the base at once."""
    prompts = [(tenant, f"{turn} {tenant} " + "abcdefghij klmnop" * 17) for turn in range(4) for tenant in TENANTS]
    wanted = [(tenant, model, prompt) for tenant, prompt in prompts for model in ("task", "")]
    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(lambda row: narrow.generate(*row, max_tokens=100), wanted))
    for (tenant, model, prompt), answer in zip(wanted, answers, strict=True):
        assert answer.text == reference(tenant if model else None, prompt, 100), (tenant, model)


def test_seeds_scores_and_forms_survive_pauses(narrow: Service) -> None:
    """A request that others pause answers as it does alone: its random numbers, its scores, its grammar and its n answers."""
    forms: list[dict[str, Any]] = [
        {"temperature": 1.0, "seed": 7, "n": 2},
        {"temperature": 0.8, "seed": 3, "presence_penalty": 1.0},
        {"temperature": 1.0, "seed": 5, "regex": "[a-f]{40}"},
    ]
    calls = [(tenant, form) for form in forms for tenant in TENANTS]
    alone = [_ask(narrow, *call) for call in calls]
    with ThreadPoolExecutor(len(calls)) as pool:
        together = list(pool.map(lambda call: _ask(narrow, *call), calls))
    assert [texts for texts, _ in together] == [texts for texts, _ in alone]
    for (_, scores), (_, others) in zip(together, alone, strict=True):
        assert scores == pytest.approx(others, abs=1e-2)


def _ask(service: Service, tenant: str, form: dict[str, Any]) -> tuple[list[str], list[float]]:
    """The texts of all answers, and the scores of the prompt and of the answers, one answer after the other."""
    request = serving_pb2.GenerateRequest(
        model="task",
        prompt=f"for {tenant} " * 30,
        sampling=serving_pb2.Sampling(max_tokens=40, **form),
        logprobs=True,
        prompt_logprobs="n" not in form,  # refused together
    )
    texts, scores = dict[int, str](), dict[int, list[float]]()
    for part in service.stub.Generate(request, metadata=service.as_tenant(tenant), timeout=300):
        texts[part.index] = texts.get(part.index, "") + part.text
        scores.setdefault(-1 if part.scores.of_prompt else part.index, []).extend(part.scores.logprobs)
    return [texts[index] for index in sorted(texts)], [one for index in sorted(scores) for one in scores[index]]


def test_an_answer_comes_in_as_few_pieces_as_are_to_be_told(narrow: Service) -> None:
    parts = list(narrow.start_generate("acme", "task", "on and on", max_tokens=LONG, ignore_eos=True))
    pieces = [part.text for part in parts if part.text]
    # By the service's clock, from the request's arrival: this process may get the first piece late, and the others then come sooner.
    seconds = parts[-1].finished.timings.total_ms / 1e3
    assert len(pieces) <= seconds / BUNDLE_S + 2, "the first and the last are told at once"
    assert sum(map(len, pieces)) > 4 * len(pieces)


def test_a_short_answer_does_not_wait_for_a_long_one_in_the_only_slot(
    narrow: Service, reference: Callable[..., str]
) -> None:
    endless = next(prompt for prompt in map(str, range(200)) if len(reference("acme", prompt, LONG)) >= LONG)
    stream = narrow.start_generate("acme", "task", endless, max_tokens=LONG)
    begun = next(stream)

    def rest() -> tuple[Answer, float]:
        return Answer.read([begun, *stream]), time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(rest)
        short = narrow.generate("globex", "task", "hello", max_tokens=4)
        ended = time.monotonic()
        long, long_ended = reading.result()
    assert ended < long_ended
    assert short.text == reference("globex", "hello", 4)
    assert long.text == reference("acme", endless, LONG)


def test_cancelled_while_paused_leaves_nothing(narrow: Service, world: World) -> None:
    """Requests that go away in their pause free their places: as many again are answered."""
    for _ in range(3):
        streams = [narrow.start_generate(tenant, "task", "on and on", max_tokens=LONG) for tenant in TENANTS]
        for stream in streams:
            next(stream)
            stream.cancel()
    for tenant in TENANTS:
        assert narrow.generate(tenant, "task", "hello", max_tokens=4).finished.usage.completion_tokens


def test_engine_death_ends_the_service_with_failure(narrow: Service) -> None:
    """The last of this file, for it ends its service: a supervisor restarts what exits non-zero. Calls that run and calls that
    wait for their turn learn that they may be sent again."""
    streams = [
        narrow.start_generate(tenant, "task", "on and on", max_tokens=LONG, ignore_eos=True) for tenant in TENANTS
    ]
    next(streams[0])
    for process in narrow.children():
        if "resource_tracker" not in " ".join(process.cmdline()):
            process.kill()
    for stream in streams:
        with pytest.raises(grpc.RpcError) as cut:
            list(stream)
        assert cut.value.code() == grpc.StatusCode.UNAVAILABLE
    assert narrow.process.wait(30) == 1
