"""How a CPU computes a step's matrices: with how many threads, and with kernels that are there before they are needed.

**Threads.** Each of a step's hundreds of parallel regions ends when its last thread has ended. Where the cores have other work (the
service's own, its clients'), one of the threads waits for a core, and all wait for it: in small steps that costs more than the
second thread computes. So such a step is computed by one thread, and the other cores are the service's. While the service reads,
checks and packs an adapter, every step leaves it a core.

**Kernels.** oneDNN compiles a kernel for each number of rows of a matrix that it meets, 1 to 2 ms and half a MiB for each shape, and
vLLM keeps 32 of them a matrix. A prompt's step has a number of rows of its own, so that most first tokens waited for the compiler.
Here a prompt's rows are filled up to one of a few numbers, whose kernels are compiled at the start and kept. A kernel divides its
work among the threads that there are when it is compiled, for good: with one thread it stays one thread's work, whoever is free
later. So each is compiled with all of them, and runs as well on fewer.

Runs inside the engine's process. On other devices than CPUs nothing here has an effect.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from serving_service.vllm_plugin import cpu_attention, cpu_linears, spinning
from serving_service.vllm_plugin.cpu_few_rows import MOST_ROWS, multiply_few
from serving_service.vllm_plugin.cpu_memory import keep_memory
from serving_service.vllm_plugin.cpu_norms import use_compiled_norms
from serving_service.vllm_plugin.cpu_seeds import spare_seeds
from serving_service.vllm_plugin.step_under_way import may_be_left, under_way

ROWS_KEPT = 256
"""Up to so many rows are filled up to a number whose kernel is kept (and compiled at the start, as far as `WARM_SECONDS` reach)."""
EXACT_ROWS = 32
"""So many are computed as they are: steps of decoding, which come again and again, and where a row more would be felt most."""
KERNELS = 512
"""Of all shapes and numbers of rows that oneDNN keeps, the last used ones; 256 MiB. Its own default is 1,024."""
SAMPLED_ROWS = 32
"""Likewise of the output layer, which is the largest and has a row for each request."""
WARM_SECONDS = 2.0
LIGHT_BYTES = 8 << 20
"""A layer's weights that one core's cache can hold: above, two cores read faster than one."""
LIGHT_FLOPS = 40e6
"""Of a layer and step: about a millisecond of one core. Both measured with the shipped backbone on 2 cores (docs/benchmarks.md)."""
LONELY = 4
"""While at most so many requests run, threads soon sleep; among more, one that sleeps holds up the others, also behind a step that a
newcomer has for itself."""


def keep_kernels() -> None:
    """Makes vLLM and oneDNN keep more of them; before the model is loaded, and before oneDNN's first use."""
    from vllm import _custom_ops as ops

    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
    create, multiply, product = ops.create_onednn_mm, ops.onednn_mm, torch.ops._C.onednn_mm.default

    def create_and_keep(weight: torch.Tensor, rows_kept: int) -> Any:
        # No more, either: what a matrix keeps stays when oneDNN has let go of it, and would be a copy for each matrix.
        return create(weight, max(rows_kept, len(NUMBERS)))

    def multiply_filled(matrix: Any, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if x.ndim != 2:
            usual: torch.Tensor = multiply(matrix, x, bias)
            return usual
        rows = len(x)
        few = vars(matrix).get("few_rows") if rows <= MOST_ROWS else None
        if few is not None and x.dtype is torch.float32 and x.stride(1) == 1:
            made = torch.empty((rows, matrix.n), dtype=x.dtype)
            few(x, made)
            return made if bias is None else made.add_(bias)
        if (whole := filled(rows)) != rows:
            more = x.new_zeros(whole, matrix.k)
            more[:rows] = x
            x = more
        made = torch.empty((whole, matrix.n), dtype=x.dtype)
        product(made, x, bias, matrix.handler_tensor)
        return made if whole == rows else made[:rows]

    ops.create_onednn_mm, ops.onednn_mm = create_and_keep, multiply_filled


def filled(rows: int) -> int:
    """Returns with how many rows so many are computed: the next multiple of 4, from 64 on of 8; few and many as they are."""
    if rows <= EXACT_ROWS or rows > ROWS_KEPT:
        return rows
    step = 4 if rows <= 64 else 8
    return -(-rows // step) * step


NUMBERS = sorted({filled(rows) for rows in range(1, ROWS_KEPT + 1)})
"""Of rows that kernels are kept for; also how many kernels a matrix keeps, the last used ones."""


def prepare(runner: Any, *, few_threads: bool) -> "tuple[int, Threads | None]":
    """Makes a worker compute as the module says; before the first request.

    Args:
        runner: the worker's.
        few_threads: small steps take one thread; else all take what the process has.

    Returns:
        The number of rows up to which kernels are there, and what chooses threads, None where nothing does.
    """
    model = runner.get_model()
    if next(model.parameters()).device.type != "cpu":
        return 0, None
    keep_memory()
    spare_seeds(runner)
    use_compiled_norms()
    whole = cpu_attention.is_all(model, cpu_attention.shorten(model))
    cpu_linears.shorten(model, cpu_attention.first_layers(model) if whole else ())
    if whole:
        may_be_left(runner)
    # Its own, for what wraps a layer for LoRA answers with the layer's.
    matrices = [module for module in model.modules() if "cpu_linear" in vars(module) and _width(module)]
    for matrix in matrices:
        multiply_few(matrix)
    threads = Threads(_of_a_layer(runner, model, matrices)) if few_threads else None
    warm = _warm(matrices, next(model.parameters()).dtype, threads)
    if threads is not None:
        execute = runner.execute_model

        def with_threads(step: Any, *args: Any, **named: Any) -> Any:
            threads.choose(step.total_num_scheduled_tokens, len(step.num_scheduled_tokens), under_way.running)
            if threads.compiles:
                under_way.stay()  # left half-way, it would not have compiled them all
            with threads.computing():
                return execute(step, *args, **named)

        runner.execute_model = with_threads
    return warm, threads


class Threads:
    """Chooses a step's threads for the thread that computes.

    Args:
        parameters: of one layer, and the bytes of each.
    """

    def __init__(self, parameters: tuple[int, int]) -> None:
        count, size = parameters
        self._all = torch.get_num_threads()
        self._light_tokens = int(LIGHT_FLOPS / (2 * count)) if count and count * size <= LIGHT_BYTES else 0
        self._now = self._all
        # Where steps take all threads anyway, the cores are theirs.
        self._spinning = spinning.found() if self._light_tokens and self._all > 1 else None
        self._tokens, self._answers = dict[int, None](), dict[int, None]()
        self.compiles = False
        """Whether the step that was chosen for last brings new numbers of rows."""
        self.leave = 0
        """Threads fewer than there are: cores for somebody else. Set from any thread; steps that begin then keep to it."""
        self._step, self._computes = threading.Condition(), False
        self._number = 0

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Covers a step."""
        with self._step:
            self._number += 1
            self._computes = True
            self._step.notify_all()
        try:
            yield
        finally:
            with self._step:
                self._computes = False
                self._step.notify_all()

    def until_next(self, seconds: float) -> None:
        """Waits until the step under way has ended, for so long at most; from any other thread."""
        with self._step:
            number = self._number
            self._step.wait_for(lambda: not self._computes or self._number != number, seconds)

    def compiled(self, rows: int) -> None:
        """Notes that kernels for so many rows are there."""
        _use(self._tokens, rows)
        if rows <= SAMPLED_ROWS:
            _use(self._answers, rows)

    def choose(self, tokens: int, answers: int, running: int = 0) -> int:
        """Sets and returns the threads for a step, and how long they look for work at its end.

        Args:
            tokens: of the step; rows of the layers' products.
            answers: requests in it, rows of the output layer's product.
            running: requests that the engine has, in this step or not.
        """
        self.compiles = any([_use(self._tokens, filled(tokens)), _use(self._answers, filled(answers))])
        wanted = 1 if 0 < tokens <= self._light_tokens else max(1, self._all - self.leave)
        if self.compiles:
            wanted = self._all
        if self._spinning is not None:
            self._spinning.set(few=max(answers, running) <= LONELY)
        if wanted != self._now:
            # vLLM replaces `torch.set_num_threads` by a warning once it has bound its threads to cores; they stay bound.
            torch._C.set_num_threads(wanted)
            self._now = wanted
        return wanted


def _use(kept: dict[int, None], rows: int) -> bool:
    """Notes a use, as a matrix does: it keeps the last used ones. Returns whether the kernel has to be compiled."""
    new = rows not in kept
    kept.pop(rows, None)
    kept[rows] = None
    if len(kept) > len(NUMBERS):
        del kept[next(iter(kept))]
    return new


def _of_a_layer(runner: Any, model: Any, matrices: list[Any]) -> tuple[int, int]:
    """Parameters of one layer, without those outside layers, and the bytes of each; (0, 0) where they cannot be told."""
    config = runner.vllm_config.model_config
    layers = int(getattr(config.hf_text_config, "num_hidden_layers", 0))
    if config.quantization or not layers:
        return 0, 0
    outside = {id(part) for one in model.modules() if hasattr(one, "embedding_dim") for part in one.parameters()}
    # What is multiplied in other ways (experts) is among the parameters; what vLLM has packed is not.
    held = sum(part.numel() for part in model.parameters() if id(part) not in outside)
    multiplied = sum(_width(one) * _height(one) for one in matrices if not hasattr(one, "embedding_dim"))
    return max(held, multiplied) // layers, next(model.parameters()).element_size()


def _warm(matrices: list[Any], dtype: torch.dtype, threads: Threads | None) -> int:
    """Goes through one matrix of each shape; the others of its shape find the kernel in oneDNN's cache."""
    matrices = list({(_width(one), _height(one)): one for one in matrices}.values())
    began = time.monotonic()
    for rows in NUMBERS:
        for matrix in matrices:
            if time.monotonic() - began > WARM_SECONDS:
                return rows - 1
            if rows <= SAMPLED_ROWS or not hasattr(matrix, "embedding_dim"):
                matrix.cpu_linear(torch.zeros(rows, _width(matrix), dtype=dtype), matrix.weight, _bias(matrix))
        if threads is not None:
            threads.compiled(rows)
    return ROWS_KEPT


def _width(matrix: Any) -> int:
    """Of what goes in; 0 where vLLM does not say."""
    return int(getattr(matrix, "input_size_per_partition", 0) or getattr(matrix, "embedding_dim", 0))


def _bias(matrix: Any) -> Any:
    """It is part of what a kernel is compiled for. An embedding that is the output layer too has none, not even as an attribute."""
    return getattr(matrix, "bias", None)


def _height(matrix: Any) -> int:
    return int(getattr(matrix, "output_size_per_partition", 0))
