"""Curriculum examples as padded token arrays, made by worker processes ahead of the training step.

Owns encoding and prefetching. Tokens are single characters, so a table look-up replaces the tokenizer here (a test
holds the two together); that is what lets a few cores keep up with a GPU.
"""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from trainer_service.engine.pretrain.curriculum import Example, example
from trainer_service.engine.pretrain.tokenizer import CHARACTERS, vocabulary

Int16Array = npt.NDArray[np.int16]

_IDS = vocabulary()
_TABLE = np.full(256, _IDS["<|unk|>"], dtype=np.int16)
for _character in CHARACTERS:
    _TABLE[ord(_character)] = _IDS[_character]
_NEWLINE = _IDS["\n"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded rows.

    Attributes:
        ids: (rows, length) int16 token ids, padded with `<|pad|>`.
        answer_start: (rows,) first supervised position.
        lengths: (rows,) tokens of each row, its end token included.
    """

    ids: Int16Array
    answer_start: Int16Array
    lengths: Int16Array


def encode(item: Example) -> tuple[Int16Array, int]:
    """Returns the ids of the rendered example and the first position of its answer."""
    prompt = _TABLE[np.frombuffer(item.prompt.encode("ascii"), dtype=np.uint8)]
    answer = _TABLE[np.frombuffer(item.answer.encode("ascii"), dtype=np.uint8)]
    head = np.array([_IDS["<|user|>"], _NEWLINE], dtype=np.int16)
    middle = np.array([_IDS["<|end|>"], _NEWLINE, _IDS["<|assistant|>"], _NEWLINE], dtype=np.int16)
    end = np.array([_IDS["<|end|>"]], dtype=np.int16)
    return np.concatenate([head, prompt, middle, answer, end]), len(head) + len(prompt) + len(middle)


def make_batch(seed: int, rows: int, step: int) -> Batch:
    """Returns training step `step`'s batch; the same for the same arguments on any machine."""
    encoded = [encode(example(seed, step, index)) for index in range(rows)]
    lengths = np.array([len(ids) for ids, _ in encoded], dtype=np.int16)
    ids = np.zeros((rows, int(lengths.max())), dtype=np.int16)
    for row, (values, _) in enumerate(encoded):
        ids[row, : len(values)] = values
    return Batch(ids, np.array([start for _, start in encoded], dtype=np.int16), lengths)


def batches(seed: int, rows: int, steps: int, workers: int) -> Iterator[Batch]:
    """Yields `steps` batches in order, prepared by `workers` processes."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        yield from pool.imap(partial(make_batch, seed, rows), range(steps))
