"""The frozen base and the adapter on it: loading, quantising, grafting, and logits at chosen positions only.

Owns everything that touches transformers' and PEFT's model classes. Does not own the training loop.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer_service.core.recipe import ALL_LINEAR, Recipe
from trainer_service.engine.data import Batch
from trainer_service.engine.errors import UnusableRecipe
from trainer_service.engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class Backbone:
    """A loaded, frozen base with its tokenizer."""

    model: Any
    tokenizer: Tokenizer
    device: torch.device
    compute_dtype: torch.dtype


def compute_dtype_of(device: torch.device) -> torch.dtype:
    """Returns bf16 where a GPU has it, fp16 on older GPUs, fp32 on a CPU."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load_tokenizer(folder: Path) -> Tokenizer:
    """Loads the backbone's tokenizer; never runs code from the folder."""
    from transformers import AutoTokenizer

    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


def load_backbone(folder: Path, tokenizer: Tokenizer, *, bits: int, device: torch.device) -> Backbone:
    """Loads the base with no gradient anywhere.

    Args:
        folder: Hugging Face folder with safetensors.
        tokenizer: of the same folder.
        bits: 4 for NF4 with double quantisation, 16 for the plain weights (held in fp32 on a CPU).
        device: where it runs.
    """
    from transformers import AutoModelForCausalLM

    dtype = compute_dtype_of(device)
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
    return Backbone(model, tokenizer, device, dtype)


class Grafted:
    """A backbone with one trainable LoRA adapter, asked for logits at supervised positions only."""

    def __init__(self, backbone: Backbone, recipe: Recipe) -> None:
        """Adds the adapter; A is drawn from torch's global generator, so seed it first.

        Raises:
            UnusableRecipe: a target is not a layer of this backbone.
        """
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

        model = backbone.model
        checkpointing = {"use_reentrant": False}
        if recipe.bits == 4:
            model = prepare_model_for_kbit_training(
                model,
                use_gradient_checkpointing=recipe.gradient_checkpointing,
                gradient_checkpointing_kwargs=checkpointing,
            )
        elif recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=int(recipe.alpha) if recipe.alpha == int(recipe.alpha) else recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=_targets(model, recipe),
            bias="none",
            task_type="CAUSAL_LM",
        )
        self.model: Any = get_peft_model(model, config)
        self.device = backbone.device
        self.pad_id = _pad_id(backbone.tokenizer)
        self._autocast = backbone.device.type == "cuda"
        self._dtype = backbone.compute_dtype
        self.needs_loss_scale = backbone.compute_dtype == torch.float16
        """fp16 gradients underflow without one."""
        self._positions = torch.empty(0, dtype=torch.int64)
        head = self.model.get_output_embeddings()
        if head is None:
            raise UnusableRecipe("the backbone has no output layer; a causal language model is needed")
        head.register_forward_pre_hook(self._keep_supervised)
        self.parameters: list[nn.Parameter] = [p for p in self.model.parameters() if p.requires_grad]

    def logits(self, batch: Batch) -> torch.Tensor:
        """Returns float32 [N, vocabulary] for the batch's N supervised positions."""
        ids = batch.ids.to(self.device, non_blocking=True)
        self._positions = batch.positions.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._autocast):
            logits: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits.float()

    def _keep_supervised(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Runs before the output layer: most hidden states are prompt, and their logits would be thrown away.

        A hook rather than a call of the decoder, so that a model's own scaling or capping of logits still applies.
        """
        hidden = args[0]
        return (hidden.flatten(0, 1).index_select(0, self._positions), *args[1:])

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
