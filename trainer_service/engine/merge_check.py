"""Whether merged weights answer as the adapter does: losses and log-probabilities on held-out rows, by plain
transformers and PEFT.

Deliberately not the trainer's own model classes: what is measured is what somebody gets who loads the two folders.
"""

import gc
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from adapter_store import AdapterStore
from adapter_store.datasets import dataset_id
from adapter_store.errors import NotFound
from adapter_store.manifest import DatasetManifest, VersionManifest
from trainer_service.core.merge_messages import MergeProgress, MergeSpec
from trainer_service.core.recipe import Recipe
from trainer_service.engine import job_data
from trainer_service.engine.backbone import load_backbone, load_tokenizer
from trainer_service.engine.batches import Example
from trainer_service.engine.merge_weights import Unmergeable
from trainer_service.engine.tokenizer import Tokenizer

MAX_ROWS = 64
MAX_LOST = 0.1
"""Share of the adapter's effect that merged weights may be away from it. Seen with the demo's adapters: 1e-5 from rounding to
bfloat16; on random weights that nothing was trained for, a few hundredths."""
FLOOR = 0.01
"""Nats a token that they may be away in any case."""
_RANDOM_ROWS, _RANDOM_TOKENS = 4, 48


def check(
    spec: MergeSpec,
    store: AdapterStore,
    manifest: VersionManifest,
    adapter: Path,
    merged: Path,
    send: Callable[[MergeProgress], None],
) -> dict[str, Any]:
    """Measures and compares; returns the figures of `MergeReport`.

    Raises:
        Unmergeable: the merged weights are too far from the adapter.
    """
    if not spec.evaluate:
        return {"evaluation": "skipped as asked; the merged weights were not compared with the adapter"}
    tokenizer = load_tokenizer(spec.backbone)
    rows, which = _rows(spec, store, manifest, tokenizer)
    done = 0

    def scored() -> None:
        nonlocal done
        done += 1
        send(MergeProgress(stage="evaluating", done=done, total=3 * len(rows)))

    with_adapter, base = _adapter_scores(spec, tokenizer, adapter, rows, scored)
    merged_scores = _scores(_load(spec, merged, tokenizer), rows, _device(spec), scored)
    distance, effect = _distance(merged_scores, with_adapter), _distance(with_adapter, base)
    if not distance <= FLOOR + MAX_LOST * effect:
        raise Unmergeable(
            f"the merged weights are {distance:.3f} nats a token from the adapter, which is {effect:.3f} from its base: too far "
            "to be rounding, so they were thrown away"
        )
    return {
        "evaluation": which,
        "rows": len(rows),
        "base_loss": -_mean(base),
        "adapter_loss": -_mean(with_adapter),
        "merged_loss": -_mean(merged_scores),
        "distance": distance,
        "effect": effect,
    }


def _rows(
    spec: MergeSpec, store: AdapterStore, manifest: VersionManifest, tokenizer: Tokenizer
) -> tuple[list[Example], str]:
    """Returns the rows to measure on: the job's own held-out ones where they are known."""
    try:
        recipe = Recipe.model_validate(manifest.made.recipe)
        dataset = _dataset(store, manifest)
    except (ValidationError, NotFound):
        why = (
            "random tokens, as the version's data set is not known here: the losses say nothing, their difference does"
        )
        return _random_rows(tokenizer), why
    store.datasets.fetch(spec.tenant, dataset.id, spec.work_dir / "dataset")
    held_out = job_data.load(spec.work_dir, spec.backbone, dataset, recipe, tokenizer).held_out
    chosen = [held_out[at] for at in range(min(MAX_ROWS, len(held_out)))]
    return chosen, f"{len(chosen)} of the {len(held_out)} rows that its job held out"


def _dataset(store: AdapterStore, manifest: VersionManifest) -> DatasetManifest:
    digest = manifest.made.dataset_sha256
    if digest is None:
        raise NotFound("the version names no data set")
    try:
        return store.datasets.read(manifest.tenant, dataset_id(digest, "jsonl"))
    except NotFound:
        return store.datasets.read(manifest.tenant, dataset_id(digest, "parquet"))


def _random_rows(tokenizer: Tokenizer) -> list[Example]:
    words = len(tokenizer)
    ids = torch.randint(0, words, (_RANDOM_ROWS, _RANDOM_TOKENS), generator=torch.Generator().manual_seed(0))
    everything = torch.ones(_RANDOM_TOKENS, dtype=torch.bool)
    everything[0] = False
    return [Example(row, everything) for row in ids]


def _adapter_scores(
    spec: MergeSpec, tokenizer: Tokenizer, adapter: Path, rows: Sequence[Example], scored: Callable[[], None]
) -> tuple[list[float], list[float]]:
    """Returns the log-probabilities with the adapter and without it; one model in memory, and gone afterwards."""
    from peft import PeftModel

    model: Any = PeftModel.from_pretrained(_load(spec, spec.backbone, tokenizer), adapter)
    with_adapter = _scores(model, rows, _device(spec), scored)
    with model.disable_adapter():
        base = _scores(model, rows, _device(spec), scored)
    del model
    gc.collect()
    return with_adapter, base


def _load(spec: MergeSpec, folder: Path, tokenizer: Tokenizer) -> Any:
    return load_backbone(folder, tokenizer, bits=16, device=_device(spec)).model


def _device(spec: MergeSpec) -> torch.device:
    """Returns the GPU only where the whole model fits beside what runs there."""
    if spec.device == "cuda" and torch.cuda.is_available():
        weights = sum(file.stat().st_size for file in spec.backbone.glob("*.safetensors"))
        if torch.cuda.mem_get_info()[0] > 1.3 * weights + (2 << 30):
            return torch.device("cuda", 0)
    return torch.device("cpu")


def _scores(model: Any, rows: Sequence[Example], device: torch.device, scored: Callable[[], None]) -> list[float]:
    """Returns the log-probabilities of the rows' supervised tokens, in order."""
    model.eval()
    found: list[float] = []
    with torch.inference_mode():
        for example in rows:
            logits = model(input_ids=example.ids[None, :-1].to(device), use_cache=False).logits[0]
            places = example.supervised[1:].nonzero().flatten()
            chosen = logits[places.to(device)].float().log_softmax(-1).cpu()
            found += chosen.gather(1, example.ids[1:][places][:, None]).flatten().tolist()
            scored()
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)
