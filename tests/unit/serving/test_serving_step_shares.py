"""What a step takes where newcomers meet a flood."""

from hypothesis import given
from hypothesis import strategies as st

from serving_service.vllm_plugin.step_shares import (
    CROWDED,
    EASY_S,
    FEW,
    LATER_S,
    LEAST_TOKENS,
    LONGER,
    LONGER_PIECE,
    MOST_ALONE,
    PIECES,
    PRESENT_S,
    SAVED,
    SHORT_S,
    StepShares,
)

lengths = st.lists(st.integers(1, 2 * MOST_ALONE), max_size=3)
step = st.tuples(lengths, st.integers(0, 20), st.floats(0.001, 5.0))
"""Newcomers' prompts, requests that are being answered, and seconds until the next step."""


@given(day=st.lists(step, max_size=80))
def test_newcomers_hold_up_half_of_the_steps_at_most_and_never_for_long(
    day: list[tuple[list[int], int, float]],
) -> None:
    """Over any stretch of steps, but for the few that were saved before it."""
    shares, now, most = StepShares(), 0.0, 0
    for newcomers, answering, seconds in day:
        alone = shares.alone(newcomers, answering, now)
        assert not alone or (newcomers and answering >= FEW and sum(newcomers) <= MOST_ALONE)
        most = max(0, most + (1 if alone else -1))  # of any stretch that ends here: theirs less the others'
        assert most <= SAVED
        now += seconds


def test_who_comes_during_a_newcomers_step_need_not_wait_for_the_floods() -> None:
    shares = StepShares()
    assert [shares.alone([10], FEW, 0.0) for _ in range(6)] == [True, True, False, True, False, True]


@given(day=st.lists(step, max_size=40))
def test_where_nobody_is_a_newcomer_vllm_decides(day: list[tuple[list[int], int, float]]) -> None:
    shares, now = StepShares(), 0.0
    for _, answering, seconds in day:
        assert not shares.alone([], answering, now)
        assert shares.prompt_tokens([], answering, now) is None
        shares.learn(seconds, 3 * answering)
        now += seconds


def test_after_the_last_newcomer_has_been_gone_for_a_while_prompts_are_free_again() -> None:
    shares = StepShares()
    shares.alone([10], 0, 100.0)
    assert shares.prompt_tokens([], FEW, 100.0 + PRESENT_S - 0.1) is not None
    assert shares.prompt_tokens([], FEW, 100.0 + PRESENT_S + 0.1) is None


@given(plain=st.floats(0.005, 1.0), token=st.floats(1e-5, 0.05), newcomers=lengths)
def test_prompts_lengthen_a_step_by_no_more_than_their_part_unless_it_stays_short(
    plain: float, token: float, newcomers: list[int]
) -> None:
    """Learned from steps; the least that a flood goes on with and what newcomers wait for may be more."""
    shares = StepShares()
    for _ in range(3):
        shares.learn(plain, 0)
        shares.learn(plain + 64 * token, 64)
    shares.alone([1], 0, 0.0)
    tokens = shares.prompt_tokens(newcomers, FEW, 1.0)
    if sum(newcomers) > MOST_ALONE:
        assert tokens is None
    else:
        assert tokens is not None
        assert tokens >= max(LEAST_TOKENS, sum(newcomers))
        part = tokens * token <= LONGER * plain * 1.001 or plain + tokens * token <= EASY_S * 1.001
        assert part or tokens == max(LEAST_TOKENS, sum(newcomers))


@given(
    plain=st.floats(0.005, 1.0),
    token=st.floats(1e-5, 0.05),
    prompts=st.lists(
        st.integers(1, 4000).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), min_size=1, max_size=5
    ),
    answering=st.integers(0, 3),
)
def test_prompts_that_those_who_answer_would_notice_come_in_a_few_pieces(
    plain: float, token: float, prompts: list[tuple[int, int]], answering: int
) -> None:
    shares, longest = StepShares(), max(whole for whole, _ in prompts)
    assert shares.piece(prompts, answering) == 0, "nothing is known yet"
    shares.learn(plain, 0)
    shares.learn(plain + 64 * token, 64)
    assert shares.piece([], answering) == 0
    for crowded, costs in ((False, token), (True, CROWDED * token)):
        piece = shares.piece(prompts, answering, crowded=crowded)
        whole = plain + sum(left for _, left in prompts) * costs
        if not answering or whole < SHORT_S * 0.999:
            assert piece == 0
        elif whole > SHORT_S * 1.001:
            pieces = 2 if plain > LATER_S / 2 else PIECES
            assert -(-longest // piece) <= pieces
            assert (pieces - 1) * plain <= LATER_S or pieces == 2, (
                "each piece but the first is a step that it waits for"
            )
            together = LONGER_PIECE * plain / costs
            assert (
                piece == max(8, -(-longest // pieces))
                or together - len(prompts) <= piece * len(prompts) <= together * 1.001
            )
            assert piece * len(prompts) >= together * 0.999 - len(prompts), "each more is a step that it waits for"


def test_what_a_prompt_costs_is_not_what_the_first_one_seemed_to() -> None:
    """The first steps of a process are slow, and then a prompt seems to cost next to nothing."""
    shares = StepShares()
    shares.learn(0.05, 0)
    shares.learn(0.04, 20)
    assert shares.piece([(200, 200)], 1) == 0, "it took no longer than a step without, which is no news of a prompt"
    shares.learn(0.0501, 20)
    for _ in range(20):
        shares.learn(0.03, 0)
    assert shares.piece([(100, 100)], 1) == 0, "for all that is known"
    shares.learn(0.06, 20)
    assert shares.piece([(100, 100)], 1)


def test_where_all_prompts_come_behind_loads_they_teach_all_the_same() -> None:
    shares = StepShares()
    for _ in range(3):
        shares.learn(0.03, 0, crowded=True)
        shares.learn(0.03 + 20 * CROWDED * 0.002, 20, crowded=True)
    assert shares.piece([(21, 21)], 1), "0.042 s more"
    assert not shares.piece([(19, 19)], 1)
    for _ in range(20):
        shares.learn(0.03, 0)
        shares.learn(0.07, 20)
    for _ in range(20):
        shares.learn(0.3, 0, crowded=True)
        shares.learn(0.9, 20, crowded=True)
    assert shares.piece([(21, 21)], 1)
    assert not shares.piece([(19, 19)], 1), "once enough is known, steps beside loads say nothing"
