"""Threads of a step, and kernels that are there before a prompt needs them."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serving_service.vllm_plugin import cpu_steps
from serving_service.vllm_plugin.cpu_steps import LIGHT_BYTES, LIGHT_FLOPS, Threads, prepare


@pytest.fixture(autouse=True)
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


def met(threads: Threads) -> Threads:
    """As after a while: nothing is compiled any more."""
    for rows in (*range(40), 1000):
        threads.choose(rows, 1)
    return threads


def test_small_steps_of_small_models_take_one_thread() -> None:
    count = LIGHT_BYTES // 8
    tokens = int(LIGHT_FLOPS / (2 * count))
    small, large = met(Threads((count, 4))), met(Threads((LIGHT_BYTES // 4 + 1, 4)))
    assert [small.choose(number, 1) for number in (1, tokens, tokens + 1, 0)] == [1, 1, 4, 4]
    assert [large.choose(number, 1) for number in (1, tokens + 1)] == [4, 4]
    assert met(Threads((0, 4))).choose(1, 1) == 4, "a model whose matrices are not known"


def test_what_is_met_for_the_first_time_is_compiled_for_all_threads() -> None:
    """A kernel that is compiled with one thread stays one thread's work for good."""
    threads = Threads((LIGHT_BYTES, 4))
    threads.leave = 3
    steps = [(30, 2), (30, 2), (30, 3), (31, 3), (31, 2), (0, 0)]
    assert [threads.choose(*step) for step in steps] == [4, 1, 4, 4, 1, 4]
    threads.compiled(7)
    assert threads.choose(7, 7) == 1
    for rows in range(1000, 1000 + len(cpu_steps.NUMBERS)):  # a matrix keeps the last used ones
        threads.choose(rows, 2)
    assert [threads.choose(30, 2), threads.choose(30, 2)] == [4, 1]


def test_every_step_leaves_the_cores_that_it_is_told_to_and_never_all() -> None:
    large = met(Threads((LIGHT_BYTES, 4)))
    seen = []
    for leave in (0, 1, 9, 0):
        large.leave = leave
        seen.append((large.choose(1000, 1), torch.get_num_threads()))
    assert seen == [(4, 4), (3, 3), (1, 1), (4, 4)]


class Matrix(torch.nn.Module):
    """As vLLM's linear layers are on a CPU."""

    def __init__(self, width: int, height: int, seen: list[tuple[int, int, int]]) -> None:
        super().__init__()
        self.input_size_per_partition, self.output_size_per_partition = width, height
        self.weight = torch.nn.Parameter(torch.zeros(height, width), requires_grad=False)
        if width > 8:  # an embedding that is the output layer too lacks it
            self.bias = None
        self.cpu_linear = lambda x, weight, bias: seen.append((height, len(x), torch.get_num_threads()))


class Wrapper(torch.nn.Module):
    """As vLLM's layers with LoRA are: what they have not is their layer's."""

    def __init__(self, base: Matrix) -> None:
        super().__init__()
        self.base_layer = base

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "base_layer" else getattr(self.base_layer, name)


def step(tokens: int) -> Any:
    """As vLLM's scheduler says it: one request."""
    return SimpleNamespace(total_num_scheduled_tokens=tokens, num_scheduled_tokens={"one": tokens})


def _runner(seen: list[tuple[int, int, int]], quantization: str | None = None) -> Any:
    model = torch.nn.ModuleList([Wrapper(Matrix(8, 16, seen)), Matrix(8, 16, seen), Wrapper(Matrix(16, 8, seen))])
    config = SimpleNamespace(quantization=quantization, hf_text_config=SimpleNamespace(num_hidden_layers=1))
    steps: list[int] = []
    return SimpleNamespace(
        vllm_config=SimpleNamespace(model_config=config),
        get_model=lambda: model,
        execute_model=lambda step: steps.append(torch.get_num_threads()),
        sample_tokens=lambda grammar: None,
        steps=steps,
    )


def test_kernels_of_each_shape_are_there_for_every_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_steps, "WARM_SECONDS", 60.0)
    seen: list[tuple[int, int, int]] = []
    runner = _runner(seen)
    rows, threads = prepare(runner, few_threads=True)
    assert rows == cpu_steps.ROWS_KEPT
    assert {(height, number) for height, number, _ in seen} == {
        (height, cpu_steps.filled(number)) for height in (8, 16) for number in range(1, rows + 1)
    }
    assert threads is not None
    assert {used for _, _, used in seen} == {4}
    light = int(LIGHT_FLOPS / (2 * 384))
    for tokens in (1, light + 1):
        runner.execute_model(step(tokens))
    assert runner.steps == [1, 4], "what was compiled at the start is not new"


def test_a_few_numbers_of_rows_stand_for_all_and_none_costs_much_more() -> None:
    """Each is half a MiB of each shape, for good: those of five shapes must fit into what oneDNN keeps."""
    numbers = set(cpu_steps.NUMBERS)
    assert len(numbers) * 5 <= cpu_steps.KERNELS
    for rows in range(1, 2049):
        filled = cpu_steps.filled(rows)
        assert rows <= filled <= rows * 1.125
        assert cpu_steps.filled(filled) == filled
        assert filled == rows or filled in numbers


def test_a_product_is_the_same_with_rows_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import _custom_ops as ops

    computed: list[int] = []
    multiply = torch.ops._C.onednn_mm.default

    def watched(made: torch.Tensor, x: torch.Tensor, *more: Any) -> None:
        computed.append(len(x))
        multiply(made, x, *more)

    monkeypatch.setattr(torch.ops._C.onednn_mm, "default", watched)
    for name in ("create_onednn_mm", "onednn_mm"):
        monkeypatch.setattr(ops, name, getattr(ops, name))  # put back when the test ends
    cpu_steps.keep_kernels()
    weight, bias = torch.randn(24, 16), torch.randn(24)
    matrix = ops.create_onednn_mm(weight.t(), 32)
    for rows in (1, 31, 33, 64, 65, 256, 257):
        x = torch.randn(rows, 16)
        for one in (None, bias):
            made = ops.onednn_mm(matrix, x, one)
            assert made.shape == (rows, 24)
            assert made.is_contiguous()
            assert torch.allclose(made, torch.nn.functional.linear(x, weight, one), atol=1e-4)
        assert computed[-1] == cpu_steps.filled(rows)
    assert ops.onednn_mm(matrix, torch.randn(1, 33, 16), None).shape == (1, 33, 24)


def test_a_model_whose_arithmetic_cannot_be_told_takes_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_steps, "WARM_SECONDS", 0.0)
    runner = _runner([], "awq")
    prepare(runner, few_threads=True)
    for _ in range(2):
        runner.execute_model(step(1))
    assert runner.steps == [4, 4]


def test_a_large_model_does_not_keep_its_service_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_steps, "WARM_SECONDS", 0.0)
    rows, threads = prepare(_runner([]), few_threads=False)
    assert (rows, threads) == (0, None)


def test_who_waits_for_the_step_under_way_goes_on_when_it_ends_and_at_once_when_there_is_none() -> None:
    threads, order = Threads((0, 4)), list[str]()
    threads.until_next(20)  # nothing computes
    began = threading.Event()

    def wait() -> None:
        began.set()
        threads.until_next(20)
        order.append("the load")

    with threads.computing():
        load = threading.Thread(target=wait)
        load.start()
        assert began.wait(20)
        threads.until_next(0.01)  # not longer than one is ready to
        order.append("the step")
    load.join(20)
    assert order == ["the step", "the load"]
