"""The rows of a job as examples: encoded, split. The same file and recipe give the same, whoever asks."""

from dataclasses import dataclass
from pathlib import Path

from adapter_store.manifest import DatasetManifest
from trainer_service.core.recipe import Recipe
from trainer_service.core.split import split
from trainer_service.engine import data
from trainer_service.engine.examples import Examples
from trainer_service.engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class JobData:
    """What a job trains on, and what it is held to."""

    encoded: data.Encoded
    train: Examples
    held_out: Examples


def load(folder: Path, backbone: Path, manifest: DatasetManifest, recipe: Recipe, tokenizer: Tokenizer) -> JobData:
    """Encodes a job's rows, or finds them encoded.

    Args:
        folder: holds the data set's bytes in the file `dataset`; the encoded rows are kept beside it.
        backbone: folder with the tokenizer's files.
        manifest: of the data set; its digest decides the split.
        recipe: of the job.
        tokenizer: of the backbone.

    Raises:
        UnusableData: a row leaves nothing to learn.
    """
    source = data.Source(folder / "dataset", manifest.format, manifest.sha256, backbone)
    encoded = data.encode_file(source, tokenizer, max_length=recipe.max_length, folder=folder / "encoded")
    examples = encoded.examples
    _, held_out = recipe.split(len(examples))
    train_rows, held_out_rows = split(examples.prompts, held_out, manifest.sha256)
    return JobData(encoded, examples.select(train_rows), examples.select(held_out_rows))
