"""The split: a partition that repeats, follows the data, and never tears a prompt apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_service.core.split import split

PROMPTS = st.lists(st.integers(0, 40), min_size=2, max_size=200)


def keys(prompts: list[int]) -> np.ndarray:
    return np.array(prompts, dtype=np.uint64)


@given(prompts=PROMPTS, share=st.floats(0.01, 0.5), digest=st.text(max_size=5))
def test_a_partition_that_repeats_and_keeps_prompts_whole(prompts: list[int], share: float, digest: str) -> None:
    wanted = min(len(prompts) - 1, max(1, round(len(prompts) * share)))
    train, held = split(keys(prompts), wanted, digest)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(len(prompts)))
    assert len(train)
    assert len(held)
    again = split(keys(prompts), wanted, digest)
    assert train.tolist() == again[0].tolist()
    assert held.tolist() == again[1].tolist()
    if len(set(prompts)) > 1:
        assert not {prompts[at] for at in train} & {prompts[at] for at in held}


@given(count=st.integers(2, 300), share=st.floats(0.01, 0.5))
def test_different_prompts_are_held_out_in_the_wanted_number(count: int, share: float) -> None:
    wanted = max(1, int(count * share))
    assert len(split(keys(list(range(count))), wanted, "digest")[1]) == wanted


@given(prompts=PROMPTS, share=st.floats(0.1, 0.5), seed=st.randoms())
def test_the_order_of_the_rows_changes_nothing(prompts: list[int], share: float, seed: object) -> None:
    """A prompt is drawn by itself, not by where its rows stand."""
    if len(set(prompts)) < 2:
        return
    wanted = max(1, round(len(prompts) * share))
    shuffled = list(prompts)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    held = [{rows[at] for at in split(keys(rows), wanted, "d")[1]} for rows in (prompts, shuffled)]
    assert held[0] == held[1]


def test_the_split_follows_the_data() -> None:
    hundred = keys(list(range(100)))
    assert split(hundred, 10, "one")[1].tolist() != split(hundred, 10, "other")[1].tolist()


@pytest.mark.parametrize("wanted", [1, 3, 9])
def test_rows_of_one_prompt_are_split_by_rows(wanted: int) -> None:
    train, held = split(keys([7] * 10), wanted, "d")
    assert (len(train), len(held)) == (10 - wanted, wanted)


def test_a_prompt_that_is_larger_than_the_share_is_trained_on() -> None:
    train, held = split(keys([1] * 90 + [2] * 10), 10, "d")
    assert held.tolist() == list(range(90, 100))
    train, held = split(keys([1] * 50 + [2] * 50), 10, "d")  # nothing fits: a whole prompt is held out all the same
    assert len(train) == len(held) == 50
