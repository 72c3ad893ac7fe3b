"""The frozen base and the adapter on it: loading, quantising, grafting.

Owns everything that touches transformers' and PEFT's model classes, but for the forward pass (`decoder`) and what an adapted
layer computes (`adapter_layers`). Does not own the training loop.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer_service.core.recipe import ALL_LINEAR, Recipe
from trainer_service.core.recipe_values import ComputeDtype
from trainer_service.engine.adapter_layers import TokenDropout, take_over
from trainer_service.engine.batches import Batch
from trainer_service.engine.decoder import Decoder
from trainer_service.engine.errors import UnusableRecipe
from trainer_service.engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class Backbone:
    """A loaded, frozen base with its tokenizer."""

    model: Any
    tokenizer: Tokenizer
    device: torch.device
    compute_dtype: torch.dtype


def compute_dtype_of(device: torch.device, asked: ComputeDtype | None = None) -> torch.dtype:
    """Returns the recipe's dtype; without one bf16 where a GPU has it, fp16 on older GPUs, fp32 on a CPU."""
    if device.type == "cpu":
        return torch.float32
    if asked is not None:
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[asked]
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load_tokenizer(folder: Path) -> Tokenizer:
    """Loads the backbone's tokenizer; never runs code from the folder."""
    from transformers import AutoTokenizer

    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


def load_backbone(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    bits: int,
    device: torch.device,
    compute_dtype: ComputeDtype | None = None,
) -> Backbone:
    """Loads the base with no gradient anywhere.

    Args:
        folder: Hugging Face folder with safetensors.
        tokenizer: of the same folder.
        bits: 4 for NF4 with double quantisation, 16 for the plain weights (held in fp32 on a CPU).
        device: where it runs.
        compute_dtype: of the recipe.
    """
    from transformers import AutoModelForCausalLM

    dtype = compute_dtype_of(device, compute_dtype)
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "use_safetensors": True}
    if device.type == "cuda":
        options["device_map"] = {"": device.index or 0}
    if bits == 4:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    # The cache would keep every layer's keys and values alive beside the activations.
    model.config.use_cache = False
    model.requires_grad_(False)
    _keep_4bit_differentiable(model)
    return Backbone(model, tokenizer, device, dtype)


def _keep_4bit_differentiable(model: nn.Module) -> None:
    """Keeps bitsandbytes from repacking 4-bit layers for inference.

    On CPUs with AVX-512 and bfloat16 it does so at the first pass without gradients (`Linear4bit.forward`, 0.50), for good, and what then
    multiplies has no gradient: adapters below a frozen layer would learn from the residual alone, with no more than a warning of torch's.
    """
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


class Grafted:
    """A backbone with one trainable LoRA adapter."""

    def __init__(self, backbone: Backbone, recipe: Recipe) -> None:
        """Adds the adapter; A is drawn from torch's global generator, so seed it first.

        Raises:
            UnusableRecipe: a target is not a layer of this backbone.
        """
        from peft import LoraConfig, get_peft_model

        model = backbone.model
        if recipe.bits == 4:
            _prepare_4bit(model, backbone.compute_dtype)
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=int(recipe.alpha) if recipe.alpha == int(recipe.alpha) else recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=_targets(model, recipe),
            bias="none",
            task_type="CAUSAL_LM",
            use_rslora=recipe.use_rslora,
        )
        if model.get_output_embeddings() is None:
            raise UnusableRecipe("the backbone has no output layer; a causal language model is needed")
        self.model: Any = get_peft_model(model, config)
        self.device = backbone.device
        self.pad_id = _pad_id(backbone.tokenizer)
        self.needs_loss_scale = backbone.compute_dtype == torch.float16
        """fp16 gradients underflow without one."""
        self.decoder = Decoder(self.model.get_base_model(), device=backbone.device, dtype=backbone.compute_dtype)
        self._dropout = TokenDropout(recipe.dropout, recipe.seed)
        take_over(self.model, self._dropout)
        self.parameters: list[nn.Parameter] = [p for p in self.model.parameters() if p.requires_grad]

    def enter(self, batch: Batch, step: int) -> None:
        """Says which tokens the next forward pass in training mode, and its backward pass, are about."""
        self._dropout.enter(batch, step, self.device)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Returns float32 [N, vocabulary] for the batch's N supervised positions."""
        return self.decoder.logits(batch).float()

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """Returns a copy of the adapter's weights on the CPU, keyed by parameter name."""
        named = self.model.named_parameters()
        return {name: p.detach().to("cpu", copy=True).contiguous() for name, p in named if p.requires_grad}

    def load_adapter_state(self, state: dict[str, torch.Tensor]) -> None:
        """Puts weights from `adapter_state` back."""
        own = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if own.keys() != state.keys():
            raise UnusableRecipe("the checkpoint's adapter has other layers than the recipe's")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])


def _prepare_4bit(model: Any, dtype: torch.dtype) -> None:
    """Does what a quantised base needs before an adapter is put on it.

    `prepare_model_for_kbit_training` lifts everything that is not quantised to fp32, embeddings and output layer too. Under
    bf16 that buys nothing (the sums are fp32 anyway, and autocast rounds the output layer to bf16 again in every pass)
    and costs 2.1 GB on Llama-3.1-8B; so it is called for fp16 alone, where the residual stream would overflow, and a
    bf16 base keeps the layout that it is served in.
    """
    if dtype != torch.float16:
        return
    from peft import prepare_model_for_kbit_training

    prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _targets(model: Any, recipe: Recipe) -> str | list[str]:
    """Returns PEFT's target_modules, after making sure that every one names a linear layer."""
    if recipe.target_modules == (ALL_LINEAR,):
        return ALL_LINEAR
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for target in recipe.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = sorted({name.rsplit(".", 1)[-1] for name in names})
            raise UnusableRecipe(
                f"target module '{target}' is no linear layer of the backbone; it has {', '.join(known)}"
            )
    return list(recipe.target_modules)


def _pad_id(tokenizer: Tokenizer) -> int:
    """Returns any valid id: padded positions are never attended to by real ones and never counted."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return candidate
    return 0
