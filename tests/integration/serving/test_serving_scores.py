"""How probable tokens were: of a prompt and of an answer, as transformers and PEFT compute it, for the base and an adapter."""

from typing import Any

import grpc
import pytest

from graftwork.v1 import serving_pb2
from tests.integration.serving.serving_world import Service, World

pytestmark = pytest.mark.slow

PROMPT = "name:Ada city:Paris"
TOLERANCE = 2e-2
"""Nats; float32 on both sides differs by 1e-5, bfloat16 serving by some 1e-3 on weights this small."""


def log_probabilities(world: World, tenant: str | None, ids: list[int]) -> list[float]:
    """Of each token from the second on, by the reference implementation."""
    import torch
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(world.backbone).eval()
    if tenant:
        model = PeftModel.from_pretrained(model, world.folders[tenant]).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return [float(logits[at, number]) for at, number in enumerate(ids[1:])]


def ask(service: Service, tenant: str, model: str, **more: Any) -> list[serving_pb2.GenerateResponse]:
    sampling = serving_pb2.Sampling(temperature=0, max_tokens=6)
    request = serving_pb2.GenerateRequest(model=model, sampling=sampling, **more)
    return list(service.stub.Generate(request, metadata=service.as_tenant(tenant), timeout=60))


@pytest.mark.parametrize("model", ["", "task"])
def test_scores_are_the_reference_implementations(service: Service, world: World, model: str) -> None:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(world.backbone)(PROMPT, add_special_tokens=False)["input_ids"]
    tokens = serving_pb2.TokenIds(ids=ids)
    parts = ask(service, "acme", model, tokens=tokens, logprobs=True, prompt_logprobs=True)
    kinds = [part.WhichOneof("part") for part in parts]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert parts[1].scores.of_prompt, "the prompt's come before any text"
    scores = [part.scores for part in parts if part.WhichOneof("part") == "scores"]
    prompt, answer = scores[0], scores[1:]
    assert [score.of_prompt for score in answer] == [False] * len(answer)
    assert list(prompt.token_ids) == ids[1:]
    said = [number for score in answer for number in score.token_ids]
    assert len(said) == parts[-1].finished.usage.completion_tokens
    expected = log_probabilities(world, "acme" if model else None, ids + said)
    found = [*prompt.logprobs, *(number for score in answer for number in score.logprobs)]
    assert found == pytest.approx(expected, abs=TOLERANCE)
    other = log_probabilities(world, None if model else "acme", ids + said)
    assert max(abs(one - two) for one, two in zip(found, other, strict=True)) > 100 * TOLERANCE
    # The same prompt as text, and again: a prompt that is in the cache is scored all the same.
    for more in ({"prompt": PROMPT}, {"tokens": tokens}):
        again = ask(service, "acme", model, prompt_logprobs=True, **more)
        (only,) = [part.scores for part in again if part.WhichOneof("part") == "scores"]
        assert list(only.logprobs) == pytest.approx(list(prompt.logprobs), abs=TOLERANCE)


def test_nobody_gets_scores_unasked(service: Service) -> None:
    assert "scores" not in {part.WhichOneof("part") for part in ask(service, "acme", "task", prompt=PROMPT)}


@pytest.mark.parametrize(
    ("ids", "words"), [([], "empty"), ([5, -1], "token -1"), ([5, 10**6], "token 1000000"), ([5] * 600, "600 tokens")]
)
def test_tokens_that_cannot_be_are_refused(service: Service, ids: list[int], words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask(service, "acme", "", tokens=serving_pb2.TokenIds(ids=ids))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()
