"""The backbone's folder: a local one as it is, an id of the Hub fetched once into its cache. Blocks; call it in a thread."""

from pathlib import Path

from graftwork.backbone import resolve

_WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model", "*.txt")


def local_folder(name: str) -> Path:
    """Returns the folder of a backbone.

    Args:
        name: `graft-mini`, a folder, or a Hugging Face id.

    Raises:
        OSError: the id is unknown, or the network is out of reach and the cache has none.
    """
    folder = Path(resolve(name))
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(_WANTED)))
