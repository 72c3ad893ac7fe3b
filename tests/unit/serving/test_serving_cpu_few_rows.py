"""Products of few rows: right for every number of rows, wherever the matrix lies, and a row's result is its own."""

import ctypes
import mmap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm import _custom_ops as ops

from serving_service.vllm_plugin import cpu_few_rows, cpu_steps
from serving_service.vllm_plugin.cpu_few_rows import COLUMNS, MOST_ROWS, FewRows, kernels, multiply_few
from serving_service.vllm_plugin.packed_weights import packed_weight

pytestmark = pytest.mark.skipif(kernels() is None, reason="this processor's products stay oneDNN's")


class Layer(torch.nn.Module):
    """As vLLM's layers are once their matrix is packed."""

    def __init__(self, k: int, n: int, seed: int = 0) -> None:
        super().__init__()
        # oneDNN lays a matrix out for the threads that there are, and vLLM takes one of the same shape to lie as the first one did.
        torch._C.set_num_threads(2)
        self.matrix = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
        handler = ops.create_onednn_mm(self.matrix.t(), 32)
        self.handler = handler
        self.cpu_linear: Callable[..., Any] = lambda x, weight, bias: ops.onednn_mm(handler, x, bias)

    def few(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.full((len(x), len(self.matrix)), float("nan"))
        self.handler.few_rows(x, made)
        return made

    def expected(self, x: torch.Tensor) -> torch.Tensor:
        return (x.double() @ self.matrix.double().T).float()


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch._C.set_num_threads(before)


@settings(max_examples=40, deadline=None)
@given(
    k=st.integers(1, 200), blocks=st.integers(1, 5), rows=st.integers(1, MOST_ROWS), threads=st.integers(1, 4), seed=st.integers(0, 9)
)  # fmt: skip
def test_every_number_of_rows_is_multiplied_right(k: int, blocks: int, rows: int, threads: int, seed: int) -> None:
    layer = Layer(k, blocks * 64, seed)
    assert multiply_few(layer)
    torch._C.set_num_threads(threads)
    x = torch.randn(rows, k + 5, generator=torch.Generator().manual_seed(seed))[
        :, 2 : 2 + k
    ]  # as q is a part of q, k and v
    assert torch.allclose(layer.few(x), layer.expected(x), atol=1e-3)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("rows", [1, 2, 6, 7, 13, MOST_ROWS])
@pytest.mark.parametrize("k", [1, 31, 32, 33, 100])
def test_blocks_of_every_width_are_read_as_they_lie(columns: int, rows: int, k: int) -> None:
    matrix, x = torch.randn(k, 3 * columns), torch.randn(rows, k)
    stride = (k + 3) * columns
    packed = torch.full((3, k + 3, columns), float("nan"))  # what fills a block up is not read
    packed[:, :k] = matrix.reshape(k, 3, columns).transpose(0, 1)
    slot = ctypes.c_void_p(packed.data_ptr())
    made = torch.full((rows, 3 * columns), float("nan"))
    FewRows(ctypes.addressof(slot), k, 3 * columns, stride, columns)(x, made)
    assert torch.allclose(made, x @ matrix, atol=1e-3)


def test_a_rows_result_is_the_same_to_the_bit_whoever_is_beside_it() -> None:
    layer = Layer(777, 192)
    assert multiply_few(layer)
    x = torch.randn(MOST_ROWS, 777)
    whole = layer.few(x)
    for rows in range(1, MOST_ROWS):
        assert torch.equal(layer.few(x[-rows:]), whole[-rows:])


@pytest.mark.parametrize("rows", [1, MOST_ROWS, MOST_ROWS + 1])
@pytest.mark.parametrize("biased", [False, True])
def test_vllms_product_takes_it_for_few_rows_and_adds_the_bias(
    monkeypatch: pytest.MonkeyPatch, rows: int, biased: bool
) -> None:
    for name in ("create_onednn_mm", "onednn_mm"):
        monkeypatch.setattr(ops, name, getattr(ops, name))  # put back when the test ends
    cpu_steps.keep_kernels()
    layer, x, taken = Layer(64, 128), torch.randn(rows, 64), list[int]()
    assert multiply_few(layer)
    few = layer.handler.few_rows
    layer.handler.few_rows = lambda x, y: (taken.append(len(x)), few(x, y))
    bias = torch.randn(128) if biased else None
    made = ops.onednn_mm(layer.handler, x, bias)
    assert torch.allclose(made, layer.expected(x) + (bias if biased else 0), atol=1e-3)
    assert taken == ([rows] if rows <= MOST_ROWS else [])


def test_a_matrix_that_is_laid_elsewhere_is_followed() -> None:
    layer, x = Layer(64, 128), torch.randn(3, 64)
    assert multiply_few(layer)
    before = layer.few(x)
    weight = packed_weight(layer)
    assert weight is not None
    held = mmap.mmap(-1, weight.size)
    view = torch.frombuffer(held, dtype=torch.float32)
    view.copy_(torch.frombuffer(bytearray(_bytes(weight)), dtype=torch.float32))
    weight.move(view.data_ptr())
    assert torch.equal(layer.few(x), before)
    view.mul_(2)
    assert torch.equal(layer.few(x), before * 2), "it reads where the matrix is now"


def _bytes(weight: Any) -> bytes:
    from serving_service.vllm_plugin.packed_weights import contents

    return bytes(contents(weight.address, weight.size).numpy().tobytes())


@pytest.mark.parametrize("layer", [Layer(64, 72), torch.nn.Linear(4, 4)])
def test_other_matrices_stay_onednns(layer: torch.nn.Module) -> None:
    assert not multiply_few(layer)
    assert "few_rows" not in vars(getattr(layer, "handler", layer))


def test_one_that_is_packed_in_another_way_stays_onednns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_few_rows.FewRows, "__call__", lambda self, x, y: y.fill_(1.0))
    layer = Layer(64, 128)
    assert not multiply_few(layer)
    assert "few_rows" not in vars(layer.handler)
