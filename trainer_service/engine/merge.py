"""The process that merges: `python -m trainer_service.engine.merge SPEC.json MESSAGES_FD`.

Owns the order: fetch the version, match its modules to the checkpoint, merge file by file, compare, list the result.
Does not own the arithmetic (`merge_weights`), the comparison (`merge_check`) nor what becomes of the result
(`core.merging`).
"""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from adapter_store import open_store
from adapter_store.base import BaseInfo, module_key, read_base
from adapter_store.blobs import hash_file
from adapter_store.manifest import TEMPLATE_FILE, WEIGHTS_FILE, VersionManifest
from adapter_store.peft_config import pattern_value
from graftwork.errors import ErrorCode, GraftError
from trainer_service.core.base_folder import FILES
from trainer_service.core.merge_messages import (
    MergedFile,
    MergeFailed,
    MergeMessage,
    MergeProgress,
    MergeReport,
    MergeSpec,
)
from trainer_service.engine.merge_weights import LowRank, Unmergeable, merge_file, tensor_names
from trainer_service.engine.parent_death import die_with_parent

Send = Callable[[MergeMessage], None]
ABOUT_FILE = "graft-merge.json"
"""In the result: what was merged into what, and what was measured."""
_DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def merge(spec: MergeSpec, send: Send) -> MergeReport:
    """Merges a version into the backbone, into `{work_dir}/merged`.

    Raises:
        Unmergeable: the backbone is quantised or does not have the adapter's modules, or the merged weights do not answer as
            the adapter does.
        GraftError: of the store.
    """
    torch.set_num_threads(spec.threads)
    send(MergeProgress(stage="fetching"))
    store = open_store(spec.store_url)
    manifest = store.versions.read(spec.tenant, spec.adapter, spec.version)
    adapter = store.versions.fetch(manifest, spec.work_dir / "adapter")
    base = read_base(spec.backbone)
    _refuse_foreign(base, manifest)
    updates = match(read_updates(adapter, manifest), base, spec.backbone)
    target = spec.work_dir / "merged"
    lost = _write(spec.backbone, target, updates, adapter, send)
    from trainer_service.engine.merge_check import check  # loads the model libraries, which merging does without

    measured = check(spec, store, manifest, adapter, target, send)
    report = MergeReport(
        base_model=base.model_id,
        base_digest=base.digest,
        dtype=_dtype(spec.backbone),
        modules=len(updates),
        max_rounding=max(lost.values()),
        files=(),
        **measured,
    )
    about = report.model_dump(exclude={"kind", "files"}) | {"tenant": spec.tenant, "adapter": spec.adapter}
    (target / ABOUT_FILE).write_text(json.dumps(about | {"version": spec.version}, indent=2) + "\n")
    return report.model_copy(update={"files": _listed(target, send)})


def _refuse_foreign(base: BaseInfo, manifest: VersionManifest) -> None:
    if manifest.base_digest != base.digest:
        raise Unmergeable(
            f"the version was trained for the backbone {manifest.base_model} (weights {manifest.base_digest[:12]}), this "
            f"trainer has weights {base.digest[:12]}: merge it where that backbone is"
        )
    if base.config.get("quantization_config"):
        raise Unmergeable(
            f"the backbone {base.model_id} is quantised: merged into quantised weights an adapter is mostly rounded away; run "
            "the trainer on the unquantised backbone (a job with bits=4 quantises it by itself)"
        )


def read_updates(folder: Path, manifest: VersionManifest) -> dict[str, LowRank]:
    """Returns a version's updates by module path."""
    from safetensors.torch import load_file

    tensors, config = load_file(folder / WEIGHTS_FILE), manifest.config
    updates = {}
    for name, a in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        rank = pattern_value(config["rank_pattern"], module, config["r"])
        alpha = pattern_value(config["alpha_pattern"], module, config["lora_alpha"])
        b = tensors[name.replace(".lora_A.", ".lora_B.")]
        scale = alpha / rank**0.5 if config["use_rslora"] else alpha / rank
        updates[module] = LowRank(a, b, scale, transposed=config["fan_in_fan_out"])
    return updates


def match(updates: Mapping[str, LowRank], base: BaseInfo, folder: Path) -> dict[str, LowRank]:
    """Returns the updates by the checkpoint's tensor names.

    Raises:
        Unmergeable: a module has no matrix of its own in the checkpoint, or more than one.
    """
    names: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, shape in tensor_names(file).items():
            if name.endswith(".weight") and len(shape) == 2:
                names.setdefault(module_key(name.removesuffix(".weight")), []).append(name)
    found = {}
    for module, update in updates.items():
        tied = bool(base.config.get("tie_word_embeddings")) and module.endswith("lm_head")
        candidates = [] if tied else names.get(module_key(module), [])
        if len(candidates) != 1:
            why = (
                "shares its weights with the embeddings"
                if tied
                else f"has {len(candidates)} matrices in the checkpoint"
            )
            raise Unmergeable(f"module {module} {why}: its update cannot be merged; serve the adapter as it is")
        found[candidates[0]] = update
    return found


def _write(backbone: Path, target: Path, updates: Mapping[str, LowRank], adapter: Path, send: Send) -> dict[str, float]:
    """Makes the folder: the backbone's files with merged weights, and the template that the adapter was trained with."""
    target.mkdir(parents=True)
    shards = sorted(backbone.glob("*.safetensors"))
    total, done, lost = sum(shard.stat().st_size for shard in shards), 0, dict[str, float]()

    def copied(size: int) -> None:
        nonlocal done
        done += size
        send(MergeProgress(stage="merging", done=done, total=total))

    for shard in shards:
        lost |= merge_file(shard, target / shard.name, updates, copied)
    for pattern in FILES:
        for file in backbone.glob(pattern):
            if file.is_file() and not (target / file.name).exists():
                shutil.copyfile(file, target / file.name)
    shutil.copyfile(adapter / TEMPLATE_FILE, target / TEMPLATE_FILE)
    return lost


def _dtype(backbone: Path) -> str:
    from adapter_store.safetensors_header import read_header

    found = {tensor.dtype for file in backbone.glob("*.safetensors") for tensor in read_header(file)}
    return ", ".join(sorted(_DTYPE_NAMES.get(name, name) for name in found))


def _listed(folder: Path, send: Send) -> tuple[MergedFile, ...]:
    files = sorted(folder.iterdir())
    total, done, listed = sum(file.stat().st_size for file in files), 0, []
    for file in files:
        digest, size = hash_file(file)
        listed.append(MergedFile(path=file.name, sha256=digest, size=size))
        done += size
        send(MergeProgress(stage="checking", done=done, total=total))
    return tuple(listed)


def main(arguments: list[str]) -> int:
    """Runs one merge; returns 0 when its end was reported."""
    die_with_parent()
    spec = MergeSpec.model_validate_json(Path(arguments[0]).read_bytes())
    with os.fdopen(int(arguments[1]), "wb", buffering=0) as pipe:

        def send(message: MergeMessage) -> None:
            pipe.write(message.model_dump_json().encode() + b"\n")

        try:
            send(merge(spec, send))
        except Unmergeable as error:
            send(MergeFailed(reason="refused", message=str(error)))
        except Exception as error:
            traceback.print_exc()
            send(_failure(error))
    return 0


def _failure(error: Exception) -> MergeFailed:
    if isinstance(error, GraftError):
        away = error.code is ErrorCode.UNAVAILABLE
        return MergeFailed(reason="unavailable" if away else "broken", message=str(error))
    return MergeFailed(
        reason="broken", message=f"the merge met {type(error).__name__}; the service's log has the details"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
