"""Trains the small default backbone from nothing and writes it as a Hugging Face folder.

Owns the architecture, the optimizer and the folder's contents. The shipped weights were made on one GPU in minutes;
two CPU cores need hours, which is why they are committed. Data and initial weights follow from the seed; the weights'
last bits follow the device's arithmetic.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from trainer_service.engine.pretrain.curriculum import example
from trainer_service.engine.pretrain.data import Batch, batches
from trainer_service.engine.pretrain.tokenizer import build_tokenizer, save_tokenizer, vocabulary

HELD_OUT_SEED = 1_000_003
"""Seed of the examples used for the exact-match figure; training never draws from it."""


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """What to build. The defaults are what the shipped backbone was built with.

    Attributes:
        layers, width, heads: Llama shape; head size = width / heads.
        steps: optimizer steps. The loss is flat after about 500; the rest sharpens copying.
        batch: rows per step.
        learning_rate: peak, cosine to a tenth, 100 steps of warm-up.
        seed: of data and initial weights.
        max_positions: longest context, in tokens.
    """

    layers: int = 6
    width: int = 256
    heads: int = 8
    steps: int = 2000
    batch: int = 1024
    learning_rate: float = 1.5e-3
    seed: int = 7
    max_positions: int = 1024


@dataclass(frozen=True, slots=True)
class Progress:
    """One step done: its number, its loss (mean over answer tokens, nats) and the seconds since the start."""

    step: int
    loss: float
    seconds: float


def build_config(spec: BackboneSpec) -> LlamaConfig:
    """Returns the Llama config of a spec; embeddings are tied, as a vocabulary of a hundred needs no second table."""
    tokenizer = build_tokenizer()
    return LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=spec.width,
        intermediate_size=int(spec.width * 8 / 3 / 16) * 16,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        max_position_embeddings=spec.max_positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def answer_loss(model: LlamaForCausalLM, batch: Batch, device: torch.device) -> Tensor:
    """Mean cross entropy over the answers' tokens, end token included (scalar, nats).

    Rows are padded on the right and attention is causal, so no real token can see a pad and no mask is needed.
    """
    ids = torch.from_numpy(batch.ids).to(device, torch.long, non_blocking=True)
    start = torch.from_numpy(batch.answer_start).to(device, torch.long)
    length = torch.from_numpy(batch.lengths).to(device, torch.long)
    positions = torch.arange(ids.shape[1] - 1, device=device)
    supervised = (positions + 1 >= start[:, None]) & (positions + 1 < length[:, None])
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    logits = model.lm_head(hidden[supervised])
    return functional.cross_entropy(logits.float(), ids[:, 1:][supervised])


def learning_rate_at(step: int, spec: BackboneSpec) -> float:
    """Linear warm-up over 100 steps, then cosine to a tenth of the peak."""
    warmup = min(100, max(1, spec.steps // 10))
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, spec.steps - warmup)
    return spec.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def train(spec: BackboneSpec, device: torch.device, report: Callable[[Progress], None]) -> LlamaForCausalLM:
    """Trains a backbone and returns it on the CPU in bf16."""
    torch.manual_seed(spec.seed)
    model = LlamaForCausalLM(build_config(spec)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    started = time.monotonic()
    for step, batch in enumerate(batches(spec.seed, spec.batch, spec.steps, workers=max(1, (os.cpu_count() or 2) - 1))):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, spec)
        with autocast:
            loss = answer_loss(model, batch, device)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 10 == 0 or step == spec.steps - 1:
            report(Progress(step + 1, loss.item(), time.monotonic() - started))
    return model.to("cpu", torch.bfloat16)


@torch.no_grad()
def exact_match(model: LlamaForCausalLM, rows: int, device: torch.device) -> float:
    """Share of held-out examples whose greedy answer is right to the last character."""
    tokenizer = build_tokenizer()
    tokenizer.padding_side = "left"
    items = [example(HELD_OUT_SEED, 0, index) for index in range(rows)]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": item.prompt}], tokenize=False, add_generation_prompt=True
        )
        for item in items
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(device)
    model = model.to(device, torch.float32)
    output = model.generate(**inputs, max_new_tokens=96, do_sample=False)
    answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    model.to("cpu", torch.bfloat16)
    right = sum(answer == item.answer for answer, item in zip(answers, items, strict=True))
    return float(right / rows)


def save(model: LlamaForCausalLM, folder: Path, spec: BackboneSpec, figures: dict[str, float | str]) -> str:
    """Writes the Hugging Face folder and `backbone.json` (spec, figures, digest).

    Returns:
        The sha256 of model.safetensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    save_tokenizer(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    card = {
        "made_by": "graft backbone build",
        "spec": asdict(spec),
        "figures": figures,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "model.safetensors": {"sha256": digest},
    }
    (folder / "backbone.json").write_text(json.dumps(card, indent=2) + "\n")
    return digest
