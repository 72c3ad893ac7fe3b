"""What training costs on a backbone, read from its shapes: layers, linear modules, vocabulary.

Owns counting. Knows nothing of recipes' costs (`cost_model`) and loads no model.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from adapter_store.base import BaseInfo, Shape
from trainer_service.core.recipe_values import ALL_LINEAR

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
# Modules whose output is added to the residual stream; nothing else needs it again, so it is not kept for the backward pass.
_INTO_STREAM = frozenset({"o_proj", "down_proj", "out_proj", "c_proj", "dense", "dense_4h_to_h", "fc2", "wo", "w2"})
_HEADS = frozenset({"lm_head", "embed_out", "output"})


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear module of a layer."""

    path: str
    """`layers.3.self_attn.q_proj`"""
    out: int
    width: int
    """Of its input."""

    @property
    def name(self) -> str:
        """`q_proj`"""
        return self.path.rsplit(".", 1)[-1]

    @property
    def parameters(self) -> int:
        """Of its matrix."""
        return self.out * self.width

    @property
    def writes_stream(self) -> bool:
        """Whether its output is added to the residual stream."""
        return self.name in _INTO_STREAM


@dataclass(frozen=True, slots=True)
class Architecture:
    """A backbone's shapes."""

    hidden: int
    """Width of the residual stream."""
    layers: int
    linears: tuple[Linear, ...]
    """Of the layers; embeddings and output layer are not among them."""
    embedding: int
    """Parameters outside the layers: embeddings, and the output layer where it has a matrix of its own."""
    vocabulary: int

    @property
    def linear_parameters(self) -> int:
        """Of all linear modules in the layers: what is quantised, and what a token passes through."""
        return sum(linear.parameters for linear in self.linears)

    def targets(self, names: tuple[str, ...]) -> tuple[Linear, ...]:
        """Returns the modules that PEFT would adapt: those whose path is, or ends with, one of the names."""
        if names == (ALL_LINEAR,):
            return self.linears
        return tuple(
            it for it in self.linears if any(it.path == name or it.path.endswith(f".{name}") for name in names)
        )


def architecture(base: BaseInfo) -> Architecture | None:
    """Reads a backbone's shapes; None where they do not say enough (weights stored packed by an unknown layout)."""
    per_layer: dict[str, list[Linear]] = defaultdict(list)
    outside: dict[str, Shape] = {}
    for path in base.modules:
        shapes = base.shapes_of(path)
        if not shapes:
            return None
        out, width = shapes[0]
        if layer := _LAYER.search(path):
            per_layer[layer[1]].append(Linear(path, out, width))
        else:
            outside[path] = (out, width)
    table = max(outside.values(), key=lambda shape: shape[0], default=None)
    if table is None or not per_layer:
        return None
    return Architecture(
        hidden=_hidden(base.config) or table[1],
        layers=len(per_layer),
        linears=tuple(linear for linears in per_layer.values() for linear in linears),
        embedding=sum(out * width for out, width in outside.values()),
        vocabulary=max((shape[0] for name, shape in outside.items() if name in _HEADS), default=table[0]),
    )


def _hidden(config: Any) -> int | None:
    value = next((config[name] for name in ("hidden_size", "n_embd", "d_model") if name in config), None)
    return value if isinstance(value, int) else None
