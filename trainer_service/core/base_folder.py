"""Where the backbone's files are: a folder, or a Hugging Face id that is fetched to the local cache once."""

from pathlib import Path

from graftwork.backbone import resolve

FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
"""No pickled weights, no code."""


def resolve_backbone(backbone: str) -> Path:
    """Returns the backbone's folder.

    Args:
        backbone: `graft-mini`, a path, or an id such as `org/name`, optionally `org/name@revision`.

    Raises:
        FileNotFoundError: neither a folder nor an id that could be fetched.
    """
    folder = Path(resolve(backbone))
    if folder.is_dir():
        return folder
    if folder.is_absolute() or backbone.startswith("."):
        raise FileNotFoundError(f"backbone folder {backbone} does not exist; set GRAFT_BACKBONE")
    from huggingface_hub import snapshot_download  # here: a local folder needs no network library

    repository, _, revision = backbone.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))
    except Exception as error:
        raise FileNotFoundError(f"backbone {backbone} could not be fetched: {type(error).__name__}") from error
