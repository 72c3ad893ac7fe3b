"""A layer has a short way only where it is a whole matrix and nothing else; every other one keeps its own."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor import parameter
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)

from serving_service.vllm_plugin import cpu_linears

WIDTH, HEIGHT = 16, 24


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(parameter, "get_tensor_model_parallel_rank", lambda: 0)
    monkeypatch.setattr(parameter, "get_tensor_model_parallel_world_size", lambda: 1)
    with set_current_vllm_config(VllmConfig()):
        yield


def loaded(layer: Any) -> Any:
    """As vLLM's loader leaves it on a CPU."""
    for part in layer.parameters():
        torch.nn.init.normal_(part.data, generator=torch.Generator().manual_seed(3))
    layer.quant_method.process_weights_after_loading(layer)
    return layer


def column(**more: Any) -> Any:
    return loaded(ColumnParallelLinear(WIDTH, HEIGHT, params_dtype=torch.float32, disable_tp=True, **more))


def row(**more: Any) -> Any:
    return loaded(RowParallelLinear(WIDTH, HEIGHT, params_dtype=torch.float32, disable_tp=True, **more))


def merged(**more: Any) -> Any:
    return loaded(
        MergedColumnParallelLinear(WIDTH, [8, 16], params_dtype=torch.float32, disable_tp=True, **more)
    )  # fmt: skip


def whole(**more: Any) -> Any:
    return loaded(ReplicatedLinear(WIDTH, HEIGHT, params_dtype=torch.float32, disable_tp=True, **more))


class Doubled(ReplicatedLinear):
    """One that does more than its product."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x)[0] * 2, None


@pytest.mark.parametrize("make", [column, row, merged, whole])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, WIDTH), (5, WIDTH), (77, WIDTH), (2, 3, WIDTH)])
@pytest.mark.parametrize("alone", [False, True])
def test_the_short_way_is_the_same_product(
    make: Callable[..., Any], bias: bool, shape: tuple[int, ...], alone: bool
) -> None:
    layer, x = make(bias=bias, return_bias=not alone), torch.randn(shape)
    usual = layer(x)
    assert cpu_linears.shorten(torch.nn.ModuleList([layer])) == 1
    assert "forward" in vars(layer)
    short = layer(x)
    assert type(short) is type(usual)
    assert torch.equal(short if alone else short[0], usual if alone else usual[0])
    assert alone or short[1] is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: column(skip_bias_add=True),
        lambda: row(input_is_parallel=False),
        lambda: loaded(Doubled(WIDTH, HEIGHT, params_dtype=torch.float32, disable_tp=True)),
        lambda: ReplicatedLinear(WIDTH, HEIGHT, disable_tp=True),  # not loaded: it has no product yet
    ],
    ids=["the bias apart", "splits its input", "does more", "not loaded"],
)
def test_others_keep_their_own(make: Callable[[], Any]) -> None:
    layer = make()
    assert cpu_linears.shorten(torch.nn.ModuleList([layer])) == 0
    assert "forward" not in vars(layer)


def test_one_rank_of_several_keeps_its_own() -> None:
    layer = column()
    layer.tp_size = 2
    assert cpu_linears.shorten(torch.nn.ModuleList([layer])) == 0


def test_weights_that_are_laid_elsewhere_later_are_the_ones_used() -> None:
    layer, x = whole(bias=False), torch.randn(3, WIDTH)
    cpu_linears.shorten(torch.nn.ModuleList([layer]))
    layer.cpu_linear = lambda x, weight, bias: torch.nn.functional.linear(x, weight, bias)
    layer.weight = torch.nn.Parameter(torch.ones(HEIGHT, WIDTH), requires_grad=False)
    assert torch.allclose(layer(x)[0], x.sum(1, keepdim=True).expand(3, HEIGHT), atol=1e-5)


def test_a_step_can_be_left_before_each_matrix_of_the_layers_that_are_named_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = list[str]()
    monkeypatch.setattr(cpu_linears.under_way, "ask", lambda: asked.append("asked"))
    model = torch.nn.ModuleDict(
        {"layers": torch.nn.ModuleList([torch.nn.ModuleDict({"up": whole()}) for _ in range(12)]), "other": whole()}
    )
    assert cpu_linears.shorten(model, ("layers.0.", "layers.1.")) == 13
    for name, module in model.named_modules():
        if name.endswith("up") or name == "other":
            asked.clear()
            module(torch.randn(3, WIDTH))
            assert len(asked) == (name in ("layers.0.up", "layers.1.up")), name
