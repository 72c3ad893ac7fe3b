"""Memory and arithmetic of one training, as formulas over a backbone's shapes and a recipe. Pure.

With h the stream's width, L layers, V words, P the layers' matrix parameters, E the embeddings', p the adapter's, T the tokens
of the largest pass, S those of them that are supervised, and b bytes an activation (2 under bf16 and fp16, 4 on a CPU):

Memory, in bytes:

- weights: 16 bits: 2 (P + E), on a CPU 4 (P + E). 4 bits: P (1/2 + 1/64 + 4 / (64 * 256)), for NF4 keeps one 8-bit scale for 64
  weights and, doubly quantised, one 32-bit scale for 256 of those; E stays 16 bits (32 under fp16 and on a CPU);
- adapter: fp32 weights and gradients, 8 p; AdamW's two moments, 8 p, or 2 p in 8 bits;
- activations that the backward pass needs, for each token and layer: the input of both norms in fp32, 8 h; the norms' outputs,
  2 b h; the outputs of every linear module that does not write to the stream, and the inputs of those that do (attention's
  result; the gated product, with the gate before and after its non-linearity), b each. Frozen matrices keep no input of their
  own; an adapter keeps its module's input, which is among those already. With checkpointing only each layer's
  input stays, b h, and the rest is there for one layer at a time, after the loss;
- logits, before that: the engine takes output layer and loss in chunks of at most CHUNK_BYTES, so 3 chunks (logits, their
  exponentials, the rounded slope) and b h for each of the S gradients;
- overhead: what the process or the CUDA context takes with nothing loaded.

Arithmetic, in floating-point operations: a frozen matrix costs 2 a parameter and token forward and 2 backward (only the gradient
of its input), 2 more where checkpointing computes it again; the adapter's cost 2 forward and 4 backward; causal attention
over a row of n tokens costs 2 n^2 h a layer forward, twice that backward; the output layer 4 h V a supervised token.

Checked against PyTorch's own figures for Llama-3.1-8B shapes, 4 rows of 512 tokens (tests/unit/trainer/test_trainer_cost.py).
"""

from dataclasses import dataclass

from trainer_service.core.architecture import Architecture
from trainer_service.core.recipe_values import Recipe

CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Of one chunk's fp32 logits; the engine's `loss` has the same."""
OVERHEAD_BYTES = {"cpu": 650 << 20, "cuda": 600 << 20}
"""Interpreter, PyTorch, transformers and PEFT on a CPU (measured); CUDA's context and its libraries' workspaces."""
NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
SMALL_TENSOR = 4096
"""Elements below which bitsandbytes keeps 32-bit moments."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The largest forward pass."""

    tokens: int
    supervised: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak, by what holds them."""

    weights: int
    adapter: int
    """With gradients and the optimizer's moments."""
    activations: int
    """Kept from the forward pass to the backward pass."""
    working: int
    """Needed for a moment: the logits, or a checkpointed layer that is computed again, whichever is larger."""
    overhead: int

    @property
    def peak(self) -> int:
        """All together."""
        return self.weights + self.adapter + self.activations + self.working + self.overhead


@dataclass(frozen=True, slots=True)
class Work:
    """What has to go through the model."""

    tokens: int
    supervised: int
    squared: int
    """Sum over the rows of their tokens' square."""


def trainable(shape: Architecture, recipe: Recipe) -> int:
    """Returns the adapter's parameters: rank x (in + out) for every adapted module."""
    return sum(recipe.rank * (it.out + it.width) for it in shape.targets(recipe.target_modules))


def adapter_bytes(shape: Architecture, recipe: Recipe) -> int:
    """Returns the size of adapter_model.safetensors: fp32, and about 150 bytes of header for each of two tensors a module."""
    return 4 * trainable(shape, recipe) + 300 * len(shape.targets(recipe.target_modules))


def memory(shape: Architecture, recipe: Recipe, device: str, largest: Pass) -> Memory:
    """Returns the peak of training memory on `device` (cpu or cuda)."""
    narrow = device == "cuda" and recipe.compute_dtype != "fp32"
    width = 2 if narrow else 4
    layer = largest.tokens * layer_bytes(shape, width)
    logits = _logits(shape, device, width, largest.supervised)
    stream = largest.tokens * shape.layers * width * shape.hidden
    return Memory(
        weights=_weights(shape, recipe, width),
        adapter=_adapter(shape, recipe),
        activations=stream if recipe.gradient_checkpointing else layer * shape.layers,
        working=max(layer, logits) if recipe.gradient_checkpointing else logits,
        overhead=OVERHEAD_BYTES[device],
    )


def _weights(shape: Architecture, recipe: Recipe, width: int) -> int:
    if recipe.bits == 16:
        return width * (shape.linear_parameters + shape.embedding)
    plain = 4 if recipe.compute_dtype == "fp16" else width
    return round(NF4_BYTES * shape.linear_parameters) + plain * shape.embedding


def _adapter(shape: Architecture, recipe: Recipe) -> int:
    small = large = 0
    for module in shape.targets(recipe.target_modules):
        for elements in (recipe.rank * module.width, recipe.rank * module.out):
            if recipe.optimizer == "paged_adamw_8bit" and elements >= SMALL_TENSOR:
                large += elements
            else:
                small += elements
    return 8 * (small + large) + 8 * small + 2 * large


def layer_bytes(shape: Architecture, width: int) -> int:
    """Returns the bytes that one token leaves in an average layer for the backward pass."""
    kept = sum(it.width if it.writes_stream else it.out for it in shape.linears)
    # A gated block keeps its gate before and after the non-linearity: as many again as the product that it feeds.
    gated = sum(it.width for it in shape.linears if it.name == "down_proj")
    return 8 * shape.hidden + 2 * width * shape.hidden + width * (kept + gated) // shape.layers


def _logits(shape: Architecture, device: str, width: int, supervised: int) -> int:
    whole = 4 * supervised * shape.vocabulary
    return 3 * min(whole, CHUNK_BYTES[device]) + width * supervised * shape.hidden


def training_flops(shape: Architecture, recipe: Recipe, work: Work) -> float:
    """Returns the operations of training on `work` once."""
    again = 1.0 if recipe.gradient_checkpointing else 0.0
    matrices = work.tokens * shape.linear_parameters * (4 + 2 * again)
    adapter = work.tokens * trainable(shape, recipe) * (6 + 2 * again)
    attention = 2.0 * work.squared * shape.hidden * shape.layers * (3 + again)
    return matrices + adapter + attention + 4.0 * work.supervised * shape.hidden * shape.vocabulary


def evaluation_flops(shape: Architecture, work: Work) -> float:
    """Returns the operations of measuring the loss on `work` once."""
    attention = 2.0 * work.squared * shape.hidden * shape.layers
    head = 2.0 * work.supervised * shape.hidden * shape.vocabulary
    return 2.0 * work.tokens * shape.linear_parameters + attention + head
