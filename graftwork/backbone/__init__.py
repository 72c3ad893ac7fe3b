"""The small default backbone that ships with the package, and what a backbone's name may be.

Owns the folder's place and its check. `graft backbone build` made the weights (trainer_service/engine/pretrain); any
other Hugging Face causal language model, by folder or id, works in its place.
"""

import hashlib
import json
from pathlib import Path

DEFAULT_NAME = "graft-mini"
"""What GRAFT_BACKBONE is when nobody sets it."""


def default_path() -> Path:
    """Returns the folder of the default backbone."""
    return Path(__file__).parent / DEFAULT_NAME


def resolve(name: str) -> str:
    """Turns a backbone's name into what `from_pretrained` takes: a folder, or a Hugging Face id.

    `graft-mini` is the shipped one; what exists as a folder is made absolute; the rest is an id.
    """
    if name == DEFAULT_NAME:
        return str(default_path())
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def check_default() -> bool:
    """Tells whether the shipped weights are the ones that `backbone.json` names by digest."""
    folder = default_path()
    card = json.loads((folder / "backbone.json").read_text())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return bool(card["model.safetensors"]["sha256"] == digest)
