"""Steps and passes: every row once, the same again for the same arguments, nothing over the budget, tokens in their place."""

from itertools import combinations

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer_service.engine.batches import (
    PLACE_BITS,
    Batch,
    Example,
    ExampleList,
    batches,
    epoch_steps,
    micro_batches,
    pack,
    pad,
    shares,
)

lengths_of_rows = st.lists(st.integers(1, 200), min_size=1, max_size=120)


def examples_of(lengths: list[int]) -> ExampleList:
    """Rows whose tokens are all different, every third of them supervised."""
    made = ExampleList()
    for row, length in enumerate(lengths):
        ids = torch.arange(length + 1) + row * 1000
        supervised = torch.arange(length + 1) % 3 == 1
        made.append(Example(ids, supervised))
    return made


@given(lengths=lengths_of_rows, batch=st.integers(1, 20), epoch=st.integers(0, 5), grouped=st.booleans())
def test_an_epoch_sees_every_row_once_and_repeats(lengths: list[int], batch: int, epoch: int, grouped: bool) -> None:
    steps = epoch_steps(lengths, batch_rows=batch, seed=3, epoch=epoch, grouped=grouped)
    assert sorted(row for step in steps for row in step) == list(range(len(lengths)))
    assert all(len(step) <= batch for step in steps)
    assert len(steps) == -(-len(lengths) // batch)
    assert epoch_steps(lengths, batch_rows=batch, seed=3, epoch=epoch, grouped=grouped) == steps


def test_epochs_differ() -> None:
    lengths = list(range(1, 101))
    first = epoch_steps(lengths, batch_rows=8, seed=0, epoch=0)
    assert first != epoch_steps(lengths, batch_rows=8, seed=0, epoch=1)


def test_grouped_steps_hold_rows_of_similar_length() -> None:
    lengths = [1 + at * 37 % 500 for at in range(500)]
    steps = epoch_steps(lengths, batch_rows=10, seed=0, epoch=0, grouped=True)
    assert max(max(lengths[row] for row in step) - min(lengths[row] for row in step) for step in steps) <= 10


@given(lengths=lengths_of_rows, budget=st.integers(1, 600), packed=st.booleans())
def test_passes_hold_every_row_once_within_the_budget(lengths: list[int], budget: int, packed: bool) -> None:
    rows = list(range(0, len(lengths), 2))
    passes = micro_batches(lengths, rows, budget, packed=packed)
    assert sorted(row for part in passes for row in part) == rows
    for part in passes:
        taken = [lengths[row] for row in part]
        cost = sum(taken) if packed else max(taken) * len(taken)
        assert cost <= budget or len(part) == 1


@given(lengths=lengths_of_rows, budget=st.integers(1, 600))
def test_no_two_packed_passes_would_fit_into_one(lengths: list[int], budget: int) -> None:
    loads = [
        sum(lengths[row] for row in part) for part in micro_batches(lengths, range(len(lengths)), budget, packed=True)
    ]
    assert all(one + other > budget for one, other in combinations(loads, 2))


@given(lengths=lengths_of_rows, parts=st.integers(1, 8))
def test_shares_deal_out_every_row_and_even_tokens(lengths: list[int], parts: int) -> None:
    rows = list(range(len(lengths)))
    dealt = shares(lengths, rows, parts)
    assert len(dealt) == parts
    assert sorted(row for part in dealt for row in part) == rows
    loads = [sum(lengths[row] for row in part) for part in dealt]
    assert max(loads) - min(loads) <= max(lengths)


def check_tokens(batch: Batch, examples: ExampleList, rows: list[int]) -> None:
    """Every token of every row is where `places` says, and every position predicts its row's next token."""
    flat, places = batch.ids.flatten(), batch.places.flatten()
    assert batch.rows == rows
    assert batch.lengths == tuple(examples[row].length for row in rows)
    seen = {}
    for token, place in zip(flat.tolist(), places.tolist(), strict=True):
        row, at = place >> PLACE_BITS, place & ((1 << PLACE_BITS) - 1)
        if at < examples[row].length:
            assert token == examples[row].ids[at]
            seen[row, at] = True
    assert len(seen) == batch.tokens == sum(batch.lengths)
    predicted = set()
    for position, target in zip(batch.positions.tolist(), batch.targets.tolist(), strict=True):
        place = int(places[position])
        row, at = place >> PLACE_BITS, place & ((1 << PLACE_BITS) - 1)
        assert target == examples[row].ids[at + 1]
        predicted.add((row, at + 1))
    assert predicted == {(r, t) for r in rows for t in examples[r].supervised.nonzero().flatten().tolist() if t > 0}


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12), budget=st.integers(1, 100))
def test_tokens_are_where_a_batch_says(lengths: list[int], budget: int) -> None:
    examples = examples_of(lengths)
    rows = list(range(len(lengths)))
    check_tokens(pack(examples, rows), examples, rows)
    check_tokens(pad(examples, rows, pad_id=7), examples, rows)
    for packed in (True, False):
        made = list(batches(examples, rows, budget, pad_id=7, packed=packed))
        assert sorted(row for batch in made for row in batch.rows) == rows


def test_packed_rows_are_not_padded_and_padded_ones_end_with_the_pad() -> None:
    examples = examples_of([3, 5])
    assert pack(examples, [0, 1]).ids.tolist() == [[0, 1, 2, 1000, 1001, 1002, 1003, 1004]]
    assert pack(examples, [0, 1]).position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3, 4]]
    assert pad(examples, [0, 1], pad_id=7).ids.tolist() == [[0, 1, 2, 7, 7], [1000, 1001, 1002, 1003, 1004]]
