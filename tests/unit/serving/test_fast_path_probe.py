"""The comparison before traffic moves: rounding passes, another adapter does not."""

import math

import pytest

from serving_service.core.errors import MergedUnlike
from serving_service.core.fast_path.probe import MEAN_NATS, TIE_NATS, agreement
from serving_service.engine.protocol import TokenScores


def scores(*pairs: tuple[int, float], top: dict[int, dict[int, float]] | None = None) -> TokenScores:
    """Tokens and log-probabilities; `top` has further ones by place."""
    ids, logprobs = tuple(token for token, _ in pairs), tuple(score for _, score in pairs)
    more = top or {}
    tops = tuple(tuple({token: score, **more.get(at, {})}.items()) for at, (token, score) in enumerate(pairs))
    return TokenScores(ids, logprobs, tops)


SAME = scores((1, -0.1), (2, -0.2), (0, -0.01))


def test_equal_answers_agree() -> None:
    found = agreement([SAME, SAME], [SAME, SAME])
    assert (found.tokens, found.mean_nats, found.parted) == (6, 0.0, 0)


@pytest.mark.parametrize(
    ("behind", "agrees"), [(0.0, True), (TIE_NATS * 0.99, True), (TIE_NATS * 1.01, False), (5.0, False)]
)
def test_answers_may_part_at_a_tie_only(behind: float, agrees: bool) -> None:
    ours = scores((1, -0.1), (2, -0.7), (3, -9.0), top={1: {7: -0.7 - behind}})
    theirs = scores((1, -0.1), (7, -0.69), (8, -0.1))
    if agrees:
        assert agreement([ours], [theirs]).parted == 1
        return
    with pytest.raises(MergedUnlike, match=r"probe 0 .* token 1"):
        agreement([ours], [theirs])


def test_a_token_that_the_adapter_never_thought_of_is_no_tie() -> None:
    with pytest.raises(MergedUnlike, match="likeliest"):
        agreement([scores((1, -0.1))], [scores((9, -0.1))])


def test_an_answer_that_is_only_shorter_is_another_one() -> None:
    with pytest.raises(MergedUnlike, match="3 tokens"):
        agreement([SAME], [scores((1, -0.1), (2, -0.2))])


@pytest.mark.parametrize(("off", "agrees"), [(MEAN_NATS * 0.99, True), (MEAN_NATS * 1.01, False), (math.nan, False)])
def test_equal_tokens_may_differ_by_rounding_only(off: float, agrees: bool) -> None:
    theirs = scores(*((token, score + off) for token, score in zip(SAME.token_ids, SAME.logprobs, strict=True)))
    if agrees:
        assert agreement([SAME], [theirs]).mean_nats == pytest.approx(off)
        return
    with pytest.raises(MergedUnlike, match="mean"):
        agreement([SAME], [theirs])
