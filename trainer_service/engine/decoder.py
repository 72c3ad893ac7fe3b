"""One pass through the backbone: a batch in, the hidden states that predict a supervised token out.

Owns what may be left out of a forward pass, and finds out by trying: whether rows can be packed without seeing each
other, and whether the output layer is a plain matrix, so that the loss can take it in chunks (`loss`). Both are tried on
two short rows when the model is made; where they do not hold, rows are padded, or the model's own forward makes the logits.
"""

import logging
from inspect import signature
from typing import Any

import torch
from torch import nn

from trainer_service.engine import attention
from trainer_service.engine.batches import Batch, Example, ExampleList, pack, pad

log = logging.getLogger(__name__)

PACKABLE_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers (transformers' `layer_types`) that `attention` knows; chunked and recurrent ones are not among them."""


class Decoder:
    """The layers below the output layer of a causal language model, and the output layer."""

    def __init__(self, causal: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        """Tries the model out.

        Args:
            causal: a transformers causal language model, its adapter in place.
            device: where it runs.
            dtype: of the arithmetic; on a GPU through autocast.
        """
        self._causal, self._device, self._dtype = causal, device, dtype
        self.head: nn.Module = causal.get_output_embeddings()
        self._positions = torch.empty(0, dtype=torch.int64)
        self._flash = device.type == "cuda"
        self.packs = False
        """Whether batches are packed; padded ones always work."""
        self.plain_head = False
        """Whether logits are hidden states times `head`'s matrix, and nothing else."""
        with torch.inference_mode():
            self._try_out()

    def autocast(self) -> torch.autocast:
        """Returns the context of all arithmetic with the model."""
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=self._device.type == "cuda")

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Returns [N, width] for the batch's N supervised positions; needs `plain_head`."""
        with self.autocast():
            states = self._causal.get_decoder()(**self._inputs(batch)).last_hidden_state
        return self._supervised(states, batch)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Returns [N, vocabulary] for the batch's N supervised positions, through the model's own forward.

        A hook before the output layer drops the other positions, so that a model's own scaling or capping applies.
        """

        def keep(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (self._supervised(args[0], batch), *args[1:])

        hook = self.head.register_forward_pre_hook(keep)
        try:
            with self.autocast():
                logits: torch.Tensor = self._causal(**self._inputs(batch)).logits
        finally:
            hook.remove()
        return logits

    def _supervised(self, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        return states.flatten(0, 1).index_select(0, batch.positions.to(self._device, non_blocking=True))

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": batch.ids.to(self._device, non_blocking=True), "use_cache": False}
        if batch.packed:
            inputs["position_ids"] = batch.position_ids.to(self._device, non_blocking=True)
            inputs["row_lengths"] = batch.lengths
            if self._flash:
                starts = torch.tensor((0, *batch.lengths), dtype=torch.int32).cumsum(0, dtype=torch.int32)
                inputs["row_starts"] = starts.to(self._device, non_blocking=True)
        return inputs

    def _try_out(self) -> None:
        rows = _probe_rows(self._causal.config)
        padded = pad(rows, [0, 1], pad_id=0)
        was_training = self._causal.training
        self._causal.eval()  # dropout would make any two passes differ
        expected = self.logits(padded)
        self.plain_head = self._has_plain_head(expected, padded)
        usual = self._causal.config._attn_implementation
        if _may_pack(self._causal):
            attention.register()
            self._causal.set_attn_implementation(attention.NAME)
            self.packs = self._keeps_apart(expected, pack(rows, [0, 1]))
            if not self.packs:
                self._causal.set_attn_implementation(usual)
        self._causal.train(was_training)

    def _has_plain_head(self, expected: torch.Tensor, batch: Batch) -> bool:
        weight = getattr(self.head, "weight", None)
        frozen = not any(parameter.requires_grad for parameter in self.head.parameters())
        if type(self.head) is not nn.Linear or weight is None or not weight.is_floating_point() or not frozen:
            return False
        try:
            with self.autocast():
                found = self.head(self.hidden(batch))
        except Exception:
            log.info("the output layer cannot be called apart from the model", exc_info=True)
            return False
        return _agree(found, expected)

    def _keeps_apart(self, expected: torch.Tensor, batch: Batch) -> bool:
        """Compares packed rows with padded ones, first with FlashAttention where there is a GPU, then row by row."""
        for flash in (True, False) if self._flash else (False,):
            self._flash = flash
            try:
                if _agree(self.logits(batch), expected):
                    return True
                log.info("packed rows see each other", extra={"flash": flash})
            except Exception:
                log.info("rows cannot be packed", extra={"flash": flash}, exc_info=True)
        return False


def _may_pack(causal: Any) -> bool:
    """Reads from the config what two short rows could not show."""
    config = causal.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or [])
    return (
        bool(getattr(causal, "_supports_attention_backend", False))
        and "position_ids" in signature(causal.get_decoder().forward).parameters
        and kinds <= PACKABLE_LAYERS
        and getattr(config, "attention_chunk_size", None) is None
    )


def _probe_rows(config: Any) -> ExampleList:
    """Two rows of different lengths whose tokens tell positions and neighbours apart."""
    vocabulary = config.get_text_config().vocab_size
    rows = ExampleList()
    for start, count in ((1, 11), (3, 7)):
        ids = (torch.arange(count) * 7 + start) % vocabulary
        supervised = torch.ones(count, dtype=torch.bool)
        supervised[0] = False
        rows.append(Example(ids, supervised))
    return rows


def _agree(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """True within the rounding of the arithmetic; rows that see each other are off by orders of magnitude."""
    scale = float(expected.float().abs().max())
    off = float((found.float() - expected.float()).abs().max())
    tolerance = 1e-4 if expected.dtype == torch.float32 else 5e-2
    return off <= tolerance * max(scale, 1e-6)
