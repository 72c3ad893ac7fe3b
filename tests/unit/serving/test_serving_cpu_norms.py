"""Norms by vLLM's compiled kernels are what its own definition says, and are used where the arguments allow."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm import ir

from serving_service.vllm_plugin.cpu_norms import PROVIDER, use_compiled_norms

NORMS = (ir.ops.rms_norm, ir.ops.fused_add_rms_norm)


@pytest.fixture(autouse=True)
def chosen() -> Iterator[None]:
    """As after a worker's start."""
    before = [one._priority_impls for one in NORMS]
    for one in NORMS:
        one.set_default(["native"])
    use_compiled_norms()
    yield
    for one, order in zip(NORMS, before, strict=True):
        one._priority_impls = order


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 70), width=st.sampled_from((64, 256, 1000)), scale=st.sampled_from((1e-3, 1.0, 1e3)))
def test_they_are_what_the_definition_says(rows: int, width: int, scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    x, residual = (torch.randn(rows, width).mul(scale).to(dtype) for _ in range(2))
    weight = torch.randn(width).to(dtype)
    kept = x.clone(), residual.clone()
    rounding = 1e-5 if dtype is torch.float32 else 2**-6
    made = ir.ops.rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(
        made, ir.ops.rms_norm.impls["native"].impl_fn(x, weight, 1e-5), rtol=rounding, atol=rounding
    )
    made, total = ir.ops.fused_add_rms_norm(x, residual, weight, 1e-5)
    want, want_total = ir.ops.fused_add_rms_norm.impls["native"].impl_fn(*kept, weight, 1e-5)
    torch.testing.assert_close(made, want, rtol=rounding, atol=rounding * 4)
    torch.testing.assert_close(total, want_total, rtol=rounding, atol=rounding * scale)
    assert torch.equal(x, kept[0]), "whoever has not given its input away keeps it"
    assert torch.equal(residual, kept[1])


def test_they_come_first_and_leave_out_what_they_cannot_do() -> None:
    x, weight = torch.randn(4, 64), torch.randn(64)
    for one, inputs in ((ir.ops.rms_norm, (x,)), (ir.ops.fused_add_rms_norm, (x, x.clone()))):
        assert one.get_priority() == [PROVIDER, "native"]
        assert one.dispatch(*inputs, weight, 1e-5).provider == PROVIDER
        assert one.dispatch(*inputs, weight.bfloat16(), 1e-5).provider == "native"
        assert one.dispatch(*inputs, weight, 1e-5, 32).provider == "native"
        assert one.dispatch(*inputs, None, 1e-5).provider == "native"
    strided = torch.randn(4, 128)[:, :64]
    assert ir.ops.rms_norm.dispatch(strided, weight, 1e-5).provider == "native"
    torch.testing.assert_close(
        ir.ops.rms_norm(strided, weight, 1e-5), ir.ops.rms_norm(strided.contiguous(), weight, 1e-5)
    )


def test_asking_twice_changes_nothing() -> None:
    before = [one.get_priority() for one in NORMS]
    use_compiled_norms()
    assert [one.get_priority() for one in NORMS] == before
