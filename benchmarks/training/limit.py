"""The physical limit of training an adapter: the operations that cannot be left out, over the rate of a matrix product.

A frozen matrix costs 4 operations a parameter and token: 2 forward, and 2 backward for the gradient of its input; it needs
none of its own. The output layer costs that at response tokens only, and a base whose activations do not fit is run
forward twice, 2 operations more. Attention, the adapter and everything element-wise are left out, so the limit cannot be
reached.
"""

import json
import time
from pathlib import Path

import torch


def operations_per_token(backbone: Path, *, response_share: float, recomputed: bool) -> float:
    """Returns the operations that one token of a row needs.

    Args:
        backbone: folder of a Llama.
        response_share: of the tokens that are supervised.
        recomputed: whether gradient checkpointing is on.
    """
    config = json.loads((backbone / "config.json").read_text())
    width, size = (
        config["hidden_size"],
        config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
    )
    attention = 2 * size * (config["num_attention_heads"] + config["num_key_value_heads"])
    layer = width * (attention + 3 * config["intermediate_size"])
    head = width * config["vocab_size"] * response_share
    return float((6 if recomputed else 4) * config["num_hidden_layers"] * layer + 4 * head)


def operations_per_second(device: str, *, threads: int) -> float:
    """Measures a matrix product of the size that training has: fp32 on a CPU, bf16 on a GPU. Best of several."""
    torch.set_num_threads(threads)
    rows, width = (1024, 1024) if device == "cpu" else (8192, 8192)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    left, right = (torch.randn(rows if at else width, width, device=device, dtype=dtype) for at in (1, 0))
    best = float("inf")
    for _ in range(20):
        _finish(device)
        began = time.perf_counter()
        torch.nn.functional.linear(left, right)
        _finish(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * rows * width * width / best


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
