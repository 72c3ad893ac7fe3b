"""What the store must know of a backbone: its digest and its modules' shapes.

Owns reading a Hugging Face folder for that, without torch. Does not own loading the model. Digests are kept in this
process by file, size and modification time, because hashing a large backbone takes minutes.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapter_store.blobs import hash_file
from adapter_store.errors import InvalidBase
from adapter_store.safetensors_header import MalformedHeader, Tensor, read_header

_FLOATS = frozenset({"F32", "F16", "BF16", "F64"})
# From the layer's index on, names agree between checkpoints and modules; what stands before differs with the class that
# loads the checkpoint ('model.', 'transformer.', 'language_model.model.').
_LAYER = re.compile(r"(?:^|\.)((?:layers|h|blocks)\.\d+\..+)$")
_HUB_SNAPSHOT = re.compile(r"models--(.+)/snapshots/([0-9a-f]{7,64})$")

TOKENIZER_FILES = (
    "added_tokens.json", "merges.txt", "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
"""What transformers makes a tokenizer from; a base has some of them."""

Shape = tuple[int, int]
"""(out features, in features)."""


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """A backbone, as far as adapters depend on it."""

    model_id: str
    """The Hub's id where the folder lies in its cache, else the folder's name."""
    revision: str | None
    """The Hub's commit, if known."""
    digest: str
    """sha256 over the sorted lines '<sha256 of file>  <file name>' of all *.safetensors files."""
    config: Mapping[str, Any] = field(repr=False, hash=False)
    """config.json."""
    modules: Mapping[str, tuple[Shape | None, ...]] = field(repr=False, hash=False)
    """Shapes of two-dimensional weights by `module_key`; None where they are stored packed (quantised)."""
    chat_template: str = field(default="", repr=False)
    """The tokenizer's own template (Jinja), empty where it has none; what an adapter without one is registered with."""
    tokenizer_digest: str = ""
    """sha256 over the sorted lines '<sha256 of file>  <file name>' of TOKENIZER_FILES, empty where there is none."""

    @property
    def max_position_embeddings(self) -> int | None:
        """Positions that the model was made for, None where its config does not say."""
        value = self.config.get("max_position_embeddings")
        return value if isinstance(value, int) else None

    @property
    def parameters(self) -> int:
        """Weights of all matrices: the model's size but for norms and biases."""
        return sum(shape[0] * shape[1] for shapes in self.modules.values() for shape in shapes if shape)

    def shapes_of(self, module: str) -> tuple[Shape, ...] | None:
        """Returns the shapes that a module of this path may have.

        Returns:
            None when the base has no such module; empty when it has one of unknown shape.
        """
        shapes = self.modules.get(module_key(module))
        if shapes is None:
            return None
        known = tuple(shape for shape in shapes if shape is not None)
        if known:
            return known
        computed = _llama_shape(self.config, module.rsplit(".", 1)[-1])
        return (computed,) if computed else ()


def module_key(module: str) -> str:
    """Returns the part of a module's path by which checkpoint and model agree."""
    match = _LAYER.search(module)
    return match[1] if match else module.rsplit(".", 1)[-1]


def read_base(path: str | Path) -> BaseInfo:
    """Reads a backbone's folder.

    Args:
        path: a Hugging Face folder: config.json and *.safetensors.

    Raises:
        InvalidBase: no readable config.json, no safetensors, or a damaged one.
    """
    folder = Path(path).resolve()
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise InvalidBase(f"{path} has no readable config.json; give the folder of a Hugging Face model") from None
    if not isinstance(config, dict):
        raise InvalidBase(f"config.json of {path} is not an object")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InvalidBase(f"{path} has no *.safetensors; convert the weights (pickled ones are refused)")
    modules: dict[str, tuple[Shape | None, ...]] = {}
    for file in files:
        try:
            tensors = read_header(file)
        except MalformedHeader as error:
            raise InvalidBase(f"{file.name} of {path} is damaged: {error}; fetch the model again") from None
        _collect(modules, tensors)
    tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    snapshot = _HUB_SNAPSHOT.search(folder.as_posix())
    return BaseInfo(
        model_id=snapshot[1].replace("--", "/") if snapshot else folder.name,
        revision=snapshot[2] if snapshot else None,
        digest=_digest(files),
        config=config,
        modules=modules,
        chat_template=chat_template_of(folder),
        tokenizer_digest=_digest(tokenizer) if tokenizer else "",
    )


def chat_template_of(folder: Path) -> str:
    """The template as transformers would find it: a file of its own, else the entry of tokenizer_config.json."""
    try:
        return (folder / "chat_template.jinja").read_text("utf-8")
    except (OSError, ValueError):
        pass
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    entry = settings.get("chat_template") if isinstance(settings, dict) else None
    if isinstance(entry, list):  # several by name, as some tool-calling models have
        named = {item.get("name"): item.get("template") for item in entry if isinstance(item, dict)}
        entry = named.get("default")
    return entry if isinstance(entry, str) else ""


def _collect(modules: dict[str, tuple[Shape | None, ...]], tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if not tensor.name.endswith(".weight") or len(tensor.shape) != 2:
            continue
        key = module_key(tensor.name.removesuffix(".weight"))
        shape = (tensor.shape[0], tensor.shape[1]) if tensor.dtype in _FLOATS else None
        modules[key] = (*modules.get(key, ()), shape)


def _llama_shape(config: Mapping[str, Any], leaf: str) -> Shape | None:
    """Shape of a linear layer as every Llama-like config implies it; None when this one does not."""
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        head = int(config.get("head_dim") or hidden // heads)
        queries, keys = heads * head, int(config.get("num_key_value_heads") or heads) * head
        inner = int(config["intermediate_size"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }.get(leaf)


_hashes: dict[tuple[str, int, int, int], str] = {}
_hashes_lock = threading.Lock()


def _digest(files: list[Path]) -> str:
    lines = sorted(f"{_file_digest(file)}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_digest(file: Path) -> str:
    stat = file.stat()
    identity = (str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns)
    with _hashes_lock:
        known = _hashes.get(identity)
    if known is None:
        known, _ = hash_file(file)
        with _hashes_lock:
            _hashes[identity] = known
    return known
