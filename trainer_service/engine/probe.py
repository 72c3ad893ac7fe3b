"""The trainer's side of the probe: rows, and how probable their responses are to the trained model and to its base."""

from itertools import islice

import torch

from trainer_service.core.probe import ProbeRow, Scores
from trainer_service.engine.backbone import Grafted
from trainer_service.engine.batches import Example, ExampleList, Examples, pad
from trainer_service.engine.train import Outcome

ROWS = 8
LONGEST = 1024
"""Tokens of a row: both engines hold a row of the vocabulary for each."""


def choose(held_out: Examples) -> ExampleList:
    """Returns the first rows that are short enough; which rows are held out is random already."""
    short = (row for row, length in enumerate(held_out.lengths) if length < LONGEST)
    return ExampleList(held_out[row] for row in islice(short, ROWS))


def as_row(example: Example) -> ProbeRow:
    """Returns what the serving service is asked for."""
    places = example.supervised.nonzero().flatten().tolist()
    return ProbeRow(tuple(example.ids.tolist()), tuple(places))


def own_scores(model: Grafted, outcome: Outcome, rows: Examples) -> Scores:
    """Returns the log-probabilities under the adapter that is published, and under the base.

    Args:
        model: left with the published adapter.
        outcome: holds it.
        rows: of `choose`.
    """
    # With B zero an adapter adds nothing, whatever computes it.
    nothing = {name: torch.zeros_like(t) if "lora_B" in name else t for name, t in outcome.best.items()}
    model.load_adapter_state(nothing)
    base = _log_probabilities(model, rows)
    model.load_adapter_state(outcome.best)
    return Scores(adapter=_log_probabilities(model, rows), base=base)


def _log_probabilities(model: Grafted, rows: Examples) -> tuple[tuple[float, ...], ...]:
    model.model.eval()
    found: list[tuple[float, ...]] = []
    with torch.inference_mode():
        for at in range(len(rows)):
            batch = pad(rows, [at], model.pad_id)
            logits = model.logits(batch).log_softmax(-1).cpu()
            found.append(tuple(logits.gather(1, batch.targets[:, None]).flatten().tolist()))
    model.model.train()
    return tuple(found)
