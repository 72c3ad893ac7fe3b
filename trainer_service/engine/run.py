"""One job from its spec to its published version: the order of things, nothing else.

Imports the heavy libraries, so the worker imports it only after its heart beats.
"""

from collections.abc import Callable
from typing import Protocol

import torch

from adapter_store import AdapterStore, open_store
from adapter_store.base import read_base
from trainer_service.core.events import Notice, NoticeLevel, Published
from trainer_service.core.rows import read_rows
from trainer_service.core.states import JobState
from trainer_service.core.worker_messages import Finished, Message, WorkerSpec
from trainer_service.engine import data, publish
from trainer_service.engine.backbone import Grafted, load_backbone, load_tokenizer
from trainer_service.engine.checkpoint import CheckpointFolder
from trainer_service.engine.errors import DeviceOutOfMemory, UnusableRecipe
from trainer_service.engine.train import Limits, Outcome, Training


class Supervisor(Protocol):
    """The other end of the pipe, as the job sees it."""

    def send(self, message: Message) -> None:
        """Delivers a message, in order."""
        ...

    def ask_to_publish(self) -> None:
        """Returns once the job is PUBLISHING and can no longer be cancelled."""
        ...


def run_job(spec: WorkerSpec, supervisor: Supervisor) -> Finished:
    """Trains and publishes.

    Raises:
        EngineError: see its subclasses.
        GraftError: of the store.
    """
    torch.set_num_threads(spec.threads)
    store = open_store(spec.store_url)
    try:
        return _run(spec, supervisor, store)
    except torch.OutOfMemoryError as error:
        raise DeviceOutOfMemory(
            "the device's memory is too small; lower max_length or ask for bits=4 or gradient_checkpointing"
        ) from error


def _run(spec: WorkerSpec, supervisor: Supervisor, store: AdapterStore) -> Finished:
    recipe = spec.recipe
    base = read_base(spec.backbone)
    manifest = store.datasets.read(spec.tenant, spec.dataset)
    file = spec.work_dir / "dataset"
    if not file.exists():
        store.datasets.fetch(spec.tenant, spec.dataset, file)
    tokenizer = load_tokenizer(spec.backbone)
    rows = list(read_rows(file, manifest.format))
    encoded = data.encode(rows, tokenizer, max_length=recipe.max_length)
    if spec.attempt == 1:
        _report(encoded, len(rows), recipe.max_length, supervisor.send)
    _, held_out = recipe.split(len(rows))
    train_rows, held_out_rows = data.split(len(rows), held_out, manifest.sha256)
    torch.manual_seed(recipe.seed)
    backbone = load_backbone(spec.backbone, tokenizer, bits=recipe.bits, device=_device(spec))
    model = Grafted(backbone, recipe)
    outcome = Training(
        model,
        [encoded.examples[row] for row in train_rows],
        [encoded.examples[row] for row in held_out_rows],
        recipe=recipe,
        limits=Limits(spec.micro_batch_tokens, spec.checkpoint_seconds),
        checkpoints=CheckpointFolder(spec.work_dir),
        base_digest=base.digest,
        send=supervisor.send,
    ).run()
    folder = spec.work_dir / "adapter"
    publish.save_adapter(model, outcome, folder, base=base, template=data.chat_template(tokenizer))
    supervisor.ask_to_publish()
    made = publish.provenance(spec, outcome, dataset_sha256=manifest.sha256)
    version = publish.publish(store, spec, folder, base, made).version
    return _conclude(spec, supervisor, store, outcome, version)


def _conclude(
    spec: WorkerSpec, supervisor: Supervisor, store: AdapterStore, outcome: Outcome, version: str
) -> Finished:
    """Moves the alias when the adapter earned it, or its owner wants it anyway."""
    if outcome.beats_base or spec.publish_anyway:
        supervisor.send(publish.move_alias(store, spec, version))
        return Finished(state=JobState.SUCCEEDED)
    supervisor.send(Published(version=version))
    progress = outcome.progress
    return Finished(
        state=JobState.GATED,
        message=f"held-out loss {progress.best_loss:.4f} is no better than the base's {progress.base_loss:.4f}: "
        "the version is kept and no alias was moved; train longer, or create the job with publish_anyway",
    )


def _report(encoded: data.Encoded, rows: int, max_length: int, send: Callable[[Message], None]) -> None:
    if encoded.truncated:
        text = f"{encoded.truncated} of {rows} rows were cut to max_length = {max_length} tokens"
        send(Notice(level=NoticeLevel.WARNING, message=text))
    if encoded.unsupervised_turns:
        text = f"{encoded.unsupervised_turns} earlier assistant turns are not trained on: the template rewrites them"
        send(Notice(level=NoticeLevel.WARNING, message=text))


def _device(spec: WorkerSpec) -> torch.device:
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise UnusableRecipe("the trainer is set to a GPU that this process cannot see; set GRAFT_TRAINER_DEVICE=cpu")
    return torch.device(spec.device, 0) if spec.device == "cuda" else torch.device("cpu")
