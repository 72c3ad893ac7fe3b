"""From a trained adapter to a version in the store, and to its alias.

Every part may be repeated: the files are written in one canonical form (PEFT's own writer orders target modules as a set
does, and names this machine's folders), the store takes the same content once, and an alias that this job has moved
already is left alone. Owns no check of the adapter: the store does that at its door.
"""

import hashlib
import json
import shutil
import socket
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog
from safetensors.torch import save_file

from adapter_store import AdapterStore
from adapter_store.audit import AuditEntry, changes_of, differing, now, pointing
from adapter_store.audit_outbox import leave
from adapter_store.base import BaseInfo
from adapter_store.errors import NotFound
from adapter_store.manifest import CONFIG_FILE, TEMPLATE_FILE, WEIGHTS_FILE, AliasRecord, Provenance, VersionManifest
from adapter_store.names import AliasName, VersionName
from graftwork.signing import SigningKey
from trainer_service.core.events import Published
from trainer_service.core.worker_messages import WorkerSpec
from trainer_service.engine.backbone import Grafted
from trainer_service.engine.train import Outcome

log = structlog.get_logger(__name__)

PACKAGES = ("graftwork", "torch", "transformers", "peft", "bitsandbytes", "safetensors")


def save_adapter(model: Grafted, outcome: Outcome, folder: Path, *, base: BaseInfo, template: str) -> None:
    """Writes the best epoch's adapter as a PEFT folder, with the template it was trained with.

    Args:
        model: its adapter is replaced by the best epoch's.
        outcome: of the training.
        folder: emptied first.
        base: named in the config.
        template: Jinja text.
    """
    from peft import get_peft_model_state_dict

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.load_adapter_state(outcome.best)
    # save_embedding_layers=False: "auto" asks the network whether the base's vocabulary was resized.
    state = get_peft_model_state_dict(model.model, save_embedding_layers=False)
    save_file(
        {name: t.contiguous().cpu() for name, t in state.items()}, folder / WEIGHTS_FILE, metadata={"format": "pt"}
    )
    config = model.model.peft_config["default"].to_dict()
    config.update(
        inference_mode=True,
        base_model_name_or_path=base.model_id,
        revision=base.revision,
        target_modules=sorted(config["target_modules"]),
    )
    text = json.dumps(config, indent=2, sort_keys=True, default=_plain)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")


def publish(store: AdapterStore, spec: WorkerSpec, folder: Path, base: BaseInfo, made: Provenance) -> VersionManifest:
    """Puts the folder into the store, signed when the service has a key; the same content again is the same version."""
    manifest = store.versions.publish(spec.tenant, spec.adapter, folder, base=base, made=made)
    if spec.signing_key_file:  # before the alias, so that a service that asks for signatures never meets it unsigned
        store.signatures.sign(manifest, SigningKey.load(spec.signing_key_file), by=job_name(spec))
    changes = [("version", "", f"published, sha256 {manifest.document_sha256} of its manifest")]
    target = VersionName(spec.tenant, spec.adapter, manifest.version)
    if manifest.made.made_by == job_name(spec):
        _note(store, spec, _entry(spec, "PublishVersion", str(target), manifest.created_at, changes))
    else:  # the same content was there: nothing has changed, and a repeat may say so once more
        _note(store, spec, _entry(spec, "PublishVersion", str(target), now(), ()))
    return manifest


def moved_before(store: AdapterStore, spec: WorkerSpec, digest: str) -> Published | None:
    """Returns what this job published in an attempt before, or None.

    A repeated publish must not move the alias back after somebody rolled it back, so the log is asked first.
    """
    try:
        history = store.aliases.history(spec.tenant, spec.adapter, spec.alias)
    except NotFound:
        return None
    by = job_name(spec)
    for record in history:
        if record.by == by and record.version == digest:
            _audit_move(store, spec, record)  # that attempt may have died before it did so
            return Published(version=digest, alias=spec.alias, alias_number=record.number)
    return None


def move_alias(store: AdapterStore, spec: WorkerSpec, digest: str) -> Published:
    """Points the job's alias at the version. May be repeated; see `moved_before` for another attempt's repetition."""
    record = store.aliases.set(
        spec.tenant, spec.adapter, spec.alias, digest, by=job_name(spec), reason="training succeeded"
    )
    if record.by == job_name(spec):  # else it pointed there already, and nobody has moved it now
        _audit_move(store, spec, record)
    return Published(version=digest, alias=spec.alias, alias_number=record.number)


def _audit_move(store: AdapterStore, spec: WorkerSpec, record: AliasRecord) -> None:
    place = spec.tenant, spec.adapter, spec.alias
    before = pointing(store.aliases.at(*place, record.number - 1)) if record.number > 1 else {}
    changes = differing(before, pointing(record))
    _note(store, spec, _entry(spec, "SetAlias", str(AliasName(*place)), record.at, changes, record.reason))


def _note(store: AdapterStore, spec: WorkerSpec, entry: AuditEntry) -> None:
    """Leaves an entry with the service, whose chain it becomes part of; in the store, in no chain, where its disk takes nothing."""
    if spec.audit_folder is not None:
        try:
            return leave(spec.audit_folder, entry)
        except OSError as error:
            log.error("an audit entry is in no chain", cause=str(error), entry=entry.id)
    store.audit.append(entry)
    return None


def _entry(
    spec: WorkerSpec,
    action: str,
    target: str,
    at: datetime,
    changes: Sequence[tuple[str, object, object]],
    reason: str = "",
) -> AuditEntry:
    """What the job did, as an entry of the audit log. The same deed makes the same entry, so that a repeat adds none."""
    identity = hashlib.sha256(f"{job_name(spec)}|{action}|{target}|{at.isoformat()}".encode()).hexdigest()
    return AuditEntry(
        id=identity[:16],
        at=at,
        service=f"TrainerService's worker on {socket.gethostname()}",
        actor=job_name(spec),
        action=action,
        target=target,
        tenant=spec.tenant,
        outcome="ok",
        changes=changes_of(changes),
        reason=reason,
    )


def provenance(spec: WorkerSpec, outcome: Outcome, *, dataset_sha256: str) -> Provenance:
    """Says how the version came to be."""
    progress = outcome.progress
    metrics = {"base_eval_loss": progress.base_loss, "eval_loss": progress.best_loss, "best_step": progress.best_step}
    return Provenance(
        made_by=job_name(spec),
        recipe=spec.recipe.model_dump(mode="json"),
        dataset_sha256=dataset_sha256,
        seed=spec.recipe.seed,
        metrics={name: float(value) for name, value in metrics.items() if value is not None},
        package_versions=_versions(),
    )


def job_name(spec: WorkerSpec) -> str:
    """Returns the job's resource name; alias records and manifests carry it."""
    return f"tenants/{spec.tenant}/jobs/{spec.job}"


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            continue
    return found


def _plain(value: object) -> object:
    """What json cannot write: sets are sorted, enums and the rest become text."""
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)
