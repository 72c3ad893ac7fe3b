"""The held-out loss of a backbone with an adapter, by neither side's code: plain transformers and PEFT, a row at a time."""

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

PROMPT = "<|user|>\n{instruction}\n{input}<|end|>\n<|assistant|>\n"
"""Of the seed; the shipped tokenizer's own template gives the same text."""


def tokenized(row: dict[str, str], tokenizer: Any, max_length: int) -> tuple[list[int], int]:
    """Returns a row's tokens, cut, and how many of them are its prompt.

    The end-of-turn token is left out: the seed never shows it to the model.
    """
    prompt: list[int] = tokenizer(PROMPT.format(**row), add_special_tokens=False)["input_ids"]
    response: list[int] = tokenizer(row["response"], add_special_tokens=False)["input_ids"]
    return (prompt + response)[:max_length], min(len(prompt), max_length)


def held_out_loss(
    backbone: Path, adapter: Path | None, rows: list[dict[str, str]], *, device: str, max_length: int
) -> float:
    """Returns the mean loss per response token, on the unquantised backbone in float32 (bf16 on a GPU)."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model: Any = AutoModelForCausalLM.from_pretrained(backbone, dtype=dtype).to(device)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for row in rows:
            tokens, prompt = tokenized(row, tokenizer, max_length)
            if len(tokens) == prompt:
                continue
            ids = torch.tensor([tokens], device=device)
            logits = model(input_ids=ids).logits[0, prompt - 1 : -1].float()
            total += float(F.cross_entropy(logits, ids[0, prompt:], reduction="sum"))
            count += len(tokens) - prompt
    return total / count
