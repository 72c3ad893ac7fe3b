"""What the engines of this benchmark run: a llama of random weights in one of two shapes, and adapters for it.

The large one has a configuration and no weights: vLLM fills them at random (`load_format="dummy"`), which takes no disk.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks import llama_8b
from benchmarks.gateway import backbones
from benchmarks.serving_fleet import make_adapter
from graftwork.backbone import default_path

RANK = 16
MODULES = ("q_proj", "v_proj")
"""What the recipe's default trains."""


@dataclass(frozen=True, slots=True)
class World:
    """Folders of a backbone and its adapters.

    Attributes:
        backbone, adapters: folders.
        vocabulary: tokens to draw prompts from.
        has_weights: False: the engine fills them at random.
    """

    backbone: Path
    adapters: tuple[Path, ...]
    vocabulary: int
    has_weights: bool


def make(shape: str, root: Path, adapters: int) -> World:
    """Writes a world of the shape `115m`, `mini` or `8b`."""
    backbone = root / "backbone"
    if shape == "8b":
        shutil.copytree(default_path(), backbone, ignore=shutil.ignore_patterns("*.safetensors"))
        config = json.loads((backbone / "config.json").read_text())
        vocabulary = config["vocab_size"]  # what its tokenizer knows: services refuse others
        (backbone / "config.json").write_text(json.dumps(config | llama_8b.CONFIG))
    else:
        vocabulary = backbones.make(shape, backbone)
    made = [
        make_adapter(root / f"adapter-{number}", backbone, rank=RANK, modules=MODULES, seed=number)
        for number in range(adapters)
    ]
    assert isinstance(vocabulary, int)
    return World(backbone, tuple(made), vocabulary, has_weights=shape != "8b")
