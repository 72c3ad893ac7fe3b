"""Requests with a seed whose prompt comes in pieces, on a CPU: vLLM ends its engine there, for everybody.

A piece that does not end its prompt is sampled from like all rows, and what came out is thrown away. What that drew from the request's
own random numbers vLLM takes back by moving their offset, which only a GPU's generator has. Here such a row has no generator while
its step is sampled, so nothing is drawn.

Owns this. `test_vllm_assumptions` tells when vLLM has mended it.
"""

from typing import Any

import numpy as np


def spare_seeds(runner: Any) -> None:
    """Makes a worker's runner draw nothing for prompts that go on."""
    sample = runner.sample_tokens

    def sample_without(*args: Any, **named: Any) -> Any:
        generators, rows = runner.input_batch.generators, runner.input_batch.num_reqs
        if not generators:
            return sample(*args, **named)
        going_on = np.flatnonzero(runner.discard_request_mask.np[:rows]).tolist()
        spared = {row: generators.pop(row) for row in going_on if row in generators}
        try:
            return sample(*args, **named)
        finally:
            generators.update(spared)

    runner.sample_tokens = sample_without
