"""Log-probabilities for the unmodified `openai` client: one entry for each token, and streamed the same ones."""

from collections.abc import Sequence
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.slow

MESSAGES: Any = [{"role": "user", "content": "hi there "}]
NO_SPECIALS: Any = dict.fromkeys(map(str, range(5)), -100)
"""Ends and markers are tokens that no text shows: without them the tokens put together are the text."""
LONG = 16
TOP = 3


def chat(client: openai.OpenAI, **more: Any) -> Any:
    ask: Any = client.chat.completions.create
    asked = {"model": "task", "messages": MESSAGES, "temperature": 0, "max_tokens": LONG, "logit_bias": NO_SPECIALS}
    return ask(**asked, logprobs=True, top_logprobs=TOP, **more)


def complete(client: openai.OpenAI, **more: Any) -> Any:
    ask: Any = client.completions.create
    asked = {"model": "task", "prompt": "name:Ada", "temperature": 0, "max_tokens": LONG, "logit_bias": NO_SPECIALS}
    return ask(**{**asked, "logprobs": TOP, **more})


def assert_near(found: Sequence[Any], wanted: Sequence[Any]) -> None:
    """Of two runs of one prompt: in another batch the last bits may differ."""
    assert list(found) == pytest.approx(list(wanted), abs=1e-3)


def test_streamed_chat_scores_are_the_whole_answers(client: openai.OpenAI) -> None:
    whole = chat(client).choices[0]
    places = whole.logprobs.content
    chunks = [chunk.choices[0] for chunk in chat(client, stream=True) if chunk.choices]
    scored = [chunk for chunk in chunks if chunk.logprobs is not None and chunk.logprobs.content]
    assert len(scored) > 1, "they come with their tokens, not all at the end"
    for chunk in scored:
        assert "".join(place.token for place in chunk.logprobs.content) == chunk.delta.content
    streamed = [place for chunk in scored for place in chunk.logprobs.content]
    assert len(streamed) == len(places) == LONG
    text = "".join(place.token for place in streamed)
    assert text == "".join(place.token for place in places) == whole.message.content
    assert text.encode() == bytes(byte for place in streamed for byte in place.bytes)
    assert_near([place.logprob for place in streamed], [place.logprob for place in places])
    for one, other in zip(streamed, places, strict=True):
        assert [top.token for top in one.top_logprobs] == [top.token for top in other.top_logprobs]
        assert len(one.top_logprobs) == TOP
        assert one.token == one.top_logprobs[0].token, "greedy"


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_has_one_score_for_each_token_of_its_text(client: openai.OpenAI, stream: bool) -> None:
    answer = complete(client, stream=stream)
    pieces = [chunk.choices[0] for chunk in answer if chunk.choices] if stream else [answer.choices[0]]
    text = "".join(piece.text for piece in pieces)
    scores = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    assert not stream or len(scores) > 1
    tokens = [token for score in scores for token in score.tokens]
    chosen = [value for score in scores for value in score.token_logprobs]
    best = [table for score in scores for table in score.top_logprobs]
    assert len(tokens) == len(chosen) == len(best) == LONG
    assert "".join(tokens) == text
    assert [place for score in scores for place in score.text_offset] == [
        sum(map(len, tokens[:number])) for number in range(LONG)
    ]
    for token, value, table in zip(tokens, chosen, best, strict=True):
        assert len(table) == TOP
        assert table[token] == value == max(table.values()), "greedy"


def test_a_completions_scores_are_the_same_streamed_and_whole(client: openai.OpenAI) -> None:
    whole = complete(client).choices[0]
    pieces = [chunk.choices[0] for chunk in complete(client, stream=True) if chunk.choices]
    assert "".join(piece.text for piece in pieces) == whole.text
    scores = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    assert_near([value for score in scores for value in score.token_logprobs], whole.logprobs.token_logprobs)
    assert [set(table) for score in scores for table in score.top_logprobs] == [
        set(table) for table in whole.logprobs.top_logprobs
    ]


def test_a_completion_without_the_wish_has_no_scores(client: openai.OpenAI) -> None:
    assert complete(client, logprobs=None).choices[0].logprobs is None
