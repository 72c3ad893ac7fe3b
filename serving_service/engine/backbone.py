"""The backbone's folder: a local one as it is, an id of the Hub fetched once into its cache. Blocks; call it in a thread."""

from pathlib import Path

from graftwork.backbone import resolve

_WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model", "*.txt")


def local_folder(name: str) -> Path:
    """Returns the folder of a backbone.

    Args:
        name: `graft-mini`, a folder, or a Hugging Face id, optionally `org/name@revision`.

    Raises:
        FileNotFoundError: neither a folder nor an id that could be fetched.
    """
    folder = Path(resolve(name))
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith("."):
        raise FileNotFoundError(f"backbone folder {name} does not exist; set GRAFT_BACKBONE")
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(_WANTED)))
    except Exception as error:  # the library's errors share no base class
        raise FileNotFoundError(f"backbone {name} could not be fetched: {type(error).__name__}") from error
