"""One job from its spec to its published version: the order of things, nothing else.

Imports the heavy libraries, so the worker imports it only after its heart beats.
"""

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from adapter_store import AdapterStore, open_store
from adapter_store.base import BaseInfo, read_base
from adapter_store.manifest import DatasetManifest
from trainer_service.core.events import Notice, NoticeLevel
from trainer_service.core.worker_messages import Finished, Message, WorkerSpec
from trainer_service.engine import data, job_data, probe, publish, replica
from trainer_service.engine.accounts import Accounts
from trainer_service.engine.backbone import Grafted, load_backbone, load_tokenizer
from trainer_service.engine.batches import ExampleList
from trainer_service.engine.checkpoint import CheckpointFolder
from trainer_service.engine.errors import memory_errors_as
from trainer_service.engine.gate import Evidence, conclude
from trainer_service.engine.patience import Patience
from trainer_service.engine.ranks import Ranks
from trainer_service.engine.rendering import chat_template
from trainer_service.engine.reporting import AnnouncedCheckpoints, Reporter, Supervisor
from trainer_service.engine.tokenizer import Tokenizer
from trainer_service.engine.train import Limits, Training


def run_job(spec: WorkerSpec, supervisor: Supervisor) -> Finished:
    """Trains and publishes.

    Raises:
        EngineError: see its subclasses.
        GraftError: of the store.
    """
    replica.share_threads(spec)
    patience = Patience(spec.store_patience_seconds, supervisor.send)
    store = patience.call("open the store", partial(open_store, spec.store_url))
    with memory_errors_as("the backbone does not fit the device's memory; ask for bits=4, or run on a larger device"):
        return _run(spec, supervisor, store, patience)


def _run(spec: WorkerSpec, supervisor: Supervisor, store: AdapterStore, patience: Patience) -> Finished:
    base = read_base(spec.backbone)
    manifest = patience.call("fetch the data set", partial(_fetch, spec, store))
    folder = spec.work_dir / "adapter"
    evidence = _train(spec, supervisor, manifest, base, folder)
    _free_device()  # what follows may wait for a serving service that loads on the same one
    supervisor.ask_to_publish()
    made = publish.provenance(spec, evidence.outcome, dataset_sha256=manifest.sha256)
    version = patience.call("publish the version", lambda: publish.publish(store, spec, folder, base, made).version)
    return conclude(spec, version, evidence, supervisor, store, patience)


def _train(
    spec: WorkerSpec, supervisor: Supervisor, manifest: DatasetManifest, base: BaseInfo, folder: Path
) -> Evidence:
    """Trains, writes the adapter into `folder`, and lets go of the model."""
    recipe, device = spec.recipe, replica.device_of(spec, 0)
    tokenizer = load_tokenizer(spec.backbone)
    rows = job_data.load(spec.work_dir, spec.backbone, manifest, recipe, tokenizer)
    accounts = Accounts(spec, base, rows.encoded, Reporter(supervisor, device).send)
    if spec.attempt == 1:
        _report(rows.encoded, recipe.max_length, supervisor.send)
        accounts.announce()
    checkpoints = AnnouncedCheckpoints(spec.work_dir, supervisor, attempt=spec.attempt)
    # The rows are encoded by now: further processes find them.
    with replica.replicas(spec, manifest, supervisor.send) as ranks:
        model = grafted(spec, tokenizer, device)
        training = training_of(spec, base, model, rows, checkpoints=checkpoints, send=accounts.send, ranks=ranks)
        with accounts.measured():
            outcome = training.run()
    publish.save_adapter(model, outcome, folder, base=base, template=chat_template(tokenizer))
    probed = probe.choose(rows.held_out) if spec.probe else ExampleList()
    return Evidence(
        outcome=outcome,
        rows=[probe.as_row(example) for example in probed],
        own=probe.own_scores(model, outcome, probed) if probed else None,
    )


def grafted(spec: WorkerSpec, tokenizer: Tokenizer, device: torch.device) -> Grafted:
    """Loads the job's backbone and puts a fresh adapter on it, the same on every rank."""
    recipe = spec.recipe
    torch.manual_seed(recipe.seed)
    backbone = load_backbone(
        spec.backbone, tokenizer, bits=recipe.bits, device=device, compute_dtype=recipe.compute_dtype
    )
    return Grafted(backbone, recipe)


def training_of(
    spec: WorkerSpec,
    base: BaseInfo,
    model: Grafted,
    rows: job_data.JobData,
    *,
    checkpoints: CheckpointFolder,
    send: Callable[[Message], None],
    ranks: Ranks,
) -> Training:
    """Returns the job's training as one rank runs it."""
    return Training(
        model,
        rows.train,
        rows.held_out,
        recipe=spec.recipe,
        limits=Limits(spec.micro_batch_tokens, spec.checkpoint_seconds),
        checkpoints=checkpoints,
        base_digest=base.digest,
        send=send,
        lines=rows.train.lines.tolist(),
        ranks=ranks,
    )


def _free_device() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _fetch(spec: WorkerSpec, store: AdapterStore) -> DatasetManifest:
    """Brings the rows here, once; attempts share them."""
    file = spec.work_dir / "dataset"
    if not file.exists():
        store.datasets.fetch(spec.tenant, spec.dataset, file)
    return store.datasets.read(spec.tenant, spec.dataset)


def _report(encoded: data.Encoded, max_length: int, send: Callable[[Message], None]) -> None:
    if encoded.truncated:
        text = f"{encoded.truncated} of {len(encoded.examples)} rows were cut to max_length = {max_length} tokens"
        send(Notice(level=NoticeLevel.WARNING, message=text))
    if encoded.unsupervised_turns:
        text = f"{encoded.unsupervised_turns} earlier assistant turns are not trained on: the template rewrites them"
        send(Notice(level=NoticeLevel.WARNING, message=text))
