"""Examples into passes: which rows an optimizer step sees, and which of them share a forward pass.

Everything here is a pure function of row lengths, seed and epoch, so a job that is killed and resumed, or that runs on
more devices, meets the same steps. Owns no rendering (`data`) and no arithmetic of the model (`loss`).

Rows are packed: laid end to end in one sequence, with attention that stops at their borders (`attention`), so that no
padding is computed and steps can be drawn at random. A backbone that cannot keep packed rows apart gets rows of similar
length, padded to the longest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

GROUP_STEPS = 50
"""Where rows are padded, rows of this many steps are sorted by length together: little padding, still random batches."""

PLACE_BITS = 20
"""Bits of `Batch.places` that hold the place inside the row; recipe.MAX_LENGTH is far below."""


Lengths = Sequence[int] | NDArray[np.int64]
"""Tokens of rows that go through the model."""


@dataclass(frozen=True, slots=True)
class Example:
    """One rendered row. `ids` and `supervised` have the same length; the first token is never supervised."""

    ids: torch.Tensor
    """int64 [T]"""
    supervised: torch.Tensor
    """bool [T]: tokens that the loss counts, the end token among them."""

    @property
    def length(self) -> int:
        """Tokens that go through the model; the last one is only ever predicted."""
        return len(self.ids) - 1


class Examples(Protocol):
    """Rendered rows, in memory or on the disk; `lengths[i]` is `self[i].length` without loading it."""

    @property
    def lengths(self) -> Lengths:
        """Of every row."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Example: ...


class ExampleList(list[Example]):
    """Rendered rows in memory."""

    @property
    def lengths(self) -> list[int]:
        """Of every row."""
        return [example.length for example in self]


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass: R rows packed into [1, tokens], or padded to [R, longest]."""

    ids: torch.Tensor
    """int64 [1, tokens] or [R, longest]"""
    places: torch.Tensor
    """int64, shaped as `ids`: row number << PLACE_BITS | place inside the row. Names a token wherever it lies."""
    lengths: tuple[int, ...]
    """Of the rows, in order."""
    packed: bool
    positions: torch.Tensor
    """int64 [N] into the flattened hidden states: where a supervised token is predicted."""
    targets: torch.Tensor
    """int64 [N]: the token to predict at each position."""

    @property
    def rows(self) -> list[int]:
        """Numbers of the rows, in order."""
        firsts = [0, *accumulate(self.lengths)][:-1] if self.packed else range(len(self.lengths))
        flat = self.places[0] if self.packed else self.places[:, 0]
        return [int(flat[at]) >> PLACE_BITS for at in firsts]

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        return sum(self.lengths)

    @property
    def position_ids(self) -> torch.Tensor:
        """int64, shaped as `ids`: the place inside the row."""
        return self.places & ((1 << PLACE_BITS) - 1)


def epoch_steps(lengths: Lengths, *, batch_rows: int, seed: int, epoch: int, grouped: bool = False) -> list[list[int]]:
    """Returns, for each optimizer step of an epoch, the rows it sees; a pure function of its arguments.

    Args:
        lengths: of all rows.
        batch_rows: rows of a step; the last one may see fewer.
        seed: of the recipe.
        epoch: from 0.
        grouped: for rows that will be padded: after the shuffle they are sorted by length inside groups of
            GROUP_STEPS steps, and the steps are shuffled again.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    if not grouped:
        return [order[at : at + batch_rows] for at in range(0, len(order), batch_rows)]
    steps: list[list[int]] = []
    for start in range(0, len(order), GROUP_STEPS * batch_rows):
        group = sorted(order[start : start + GROUP_STEPS * batch_rows], key=lambda row: lengths[row])
        steps += [group[at : at + batch_rows] for at in range(0, len(group), batch_rows)]
    return [steps[at] for at in torch.randperm(len(steps), generator=generator).tolist()]


def shares(lengths: Lengths, rows: Sequence[int], parts: int) -> list[list[int]]:
    """Deals rows out to `parts` devices so that their tokens come out even: longest first, each to the emptiest.

    Args:
        lengths: of all rows.
        rows: of one step.
        parts: devices; with fewer rows than devices some get none.
    """
    dealt: list[list[int]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for row in sorted(rows, key=lambda row: -lengths[row]):
        to = loads.index(min(loads))
        dealt[to].append(row)
        loads[to] += lengths[row]
    return dealt


def micro_batches(lengths: Lengths, rows: Sequence[int], max_tokens: int, *, packed: bool) -> list[list[int]]:
    """Cuts rows into passes of at most `max_tokens` tokens, padding counted; a longer row goes alone.

    Packed rows are fitted first into passes (longest first, each into the first pass with room), which needs at most
    a fifth more passes than the best fit; padded rows are cut in order of length.
    """
    ordered = sorted(rows, key=lambda row: lengths[row], reverse=packed)
    passes: list[list[int]] = []
    loads: list[int] = []
    for row in ordered:
        for at, load in enumerate(loads if packed else []):
            if load + lengths[row] <= max_tokens:
                passes[at].append(row)
                loads[at] += lengths[row]
                break
        else:
            if not packed and passes and (len(passes[-1]) + 1) * lengths[row] <= max_tokens:
                passes[-1].append(row)
            else:
                passes.append([row])
                loads.append(lengths[row])
    return passes


def batches(examples: Examples, rows: Sequence[int], max_tokens: int, *, pad_id: int, packed: bool) -> Iterator[Batch]:
    """Yields the passes over `rows`, each made when it is asked for."""
    for part in micro_batches(examples.lengths, rows, max_tokens, packed=packed):
        yield pack(examples, part) if packed else pad(examples, part, pad_id)


def pack(examples: Examples, rows: Sequence[int]) -> Batch:
    """Lays rows end to end in one sequence."""
    chosen = [examples[row] for row in rows]
    starts = [0]
    for example in chosen:
        starts.append(starts[-1] + example.length)
    places = [_places(row, example.length) for row, example in zip(rows, chosen, strict=True)]
    return Batch(
        ids=torch.cat([example.ids[:-1] for example in chosen])[None],
        places=torch.cat(places)[None],
        lengths=tuple(example.length for example in chosen),
        packed=True,
        positions=_positions(chosen, starts),
        targets=_targets(chosen),
    )


def pad(examples: Examples, rows: Sequence[int], pad_id: int) -> Batch:
    """Pads rows on the right to the longest of them.

    No attention mask is made: under causal attention a token never looks right, so padding on the right reaches only
    padded positions, and those are never in `positions`.
    """
    chosen = [examples[row] for row in rows]
    longest = max(example.length for example in chosen)
    ids = torch.full((len(chosen), longest), pad_id)
    for at, example in enumerate(chosen):
        ids[at, : example.length] = example.ids[:-1]
    return Batch(
        ids=ids,
        places=torch.stack([_places(row, longest) for row in rows]),
        lengths=tuple(example.length for example in chosen),
        packed=False,
        positions=_positions(chosen, [at * longest for at in range(len(chosen))]),
        targets=_targets(chosen),
    )


def _places(row: int, count: int) -> torch.Tensor:
    return torch.arange(count) + (row << PLACE_BITS)


def _positions(chosen: Sequence[Example], starts: Sequence[int]) -> torch.Tensor:
    found = [example.supervised[1:].nonzero().squeeze(1) + at for example, at in zip(chosen, starts, strict=False)]
    return torch.cat(found)


def _targets(chosen: Sequence[Example]) -> torch.Tensor:
    return torch.cat([example.ids[1:][example.supervised[1:]] for example in chosen])
