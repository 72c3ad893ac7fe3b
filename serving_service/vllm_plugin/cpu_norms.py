"""RMS norms on a CPU by vLLM's own compiled kernels, which it has for CPUs and does not use there.

Its CPU platform takes the norm apart into six to eight operations of torch. For steps of a few rows that is nearly all calls: 37 to
45 us a norm where the kernel takes 7 to 9 (16 rows of 256, one core), thirteen norms a step of the shipped backbone. Owns two more
implementations of vLLM's operations and that they come first. Its kernel for SiLU is slower than torch's and stays unused.
"""

from typing import Any

import torch

PROVIDER = "graft_c"


def _plain(x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    return variance_size is None and weight is not None and weight.dtype == x.dtype and x.is_contiguous()


def _plain_sum(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> bool:
    return _plain(x, weight, epsilon, variance_size) and x_residual.is_contiguous() and x_residual.dtype == x.dtype


def _norm(
    x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
) -> torch.Tensor:
    made = torch.empty_like(x)
    torch.ops._C.rms_norm(made, x, weight, epsilon)
    return made


def _norm_of_sum(
    x: torch.Tensor,
    x_residual: torch.Tensor,
    weight: torch.Tensor | None,
    epsilon: float,
    variance_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual


def use_compiled_norms() -> None:
    """Makes this process's model compute norms so, where their arguments allow; after the worker has set vLLM's own order."""
    from vllm import ir

    compiled = all(hasattr(torch.ops._C, name) for name in ("rms_norm", "fused_add_rms_norm"))
    for operation, norm, plain, inplace in (
        (ir.ops.rms_norm, _norm, _plain, False),
        (ir.ops.fused_add_rms_norm, _norm_of_sum, _plain_sum, True),
    ):
        _put_first(operation, norm, plain, inplace=inplace, compiled=compiled)


def _put_first(operation: Any, norm: Any, plain: Any, *, inplace: bool, compiled: bool) -> None:
    if PROVIDER not in operation.impls:
        before, operation._priority_impls = operation._priority_impls, []  # else it warns that an order is set
        operation.register_impl(PROVIDER, supported=compiled, supports_args=plain, inplace=inplace)(norm)
        operation._priority_impls = before
    operation.set_default([PROVIDER, *(one for one in operation.get_priority() if one != PROVIDER)])
