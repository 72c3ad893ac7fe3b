"""What is written down about versions, aliases, tenants and data sets.

Owns the stored models, all frozen, and the identity of a version. Does not own where they lie (layout) or how they are
written (documents, numbered_log). Times are UTC. A new field needs a default, so that old documents stay readable.
"""

import hashlib
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import Field

from adapter_store.documents import Document, canonical
from adapter_store.idempotency import Repeatable
from adapter_store.numbered_log import Numbered

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
TEMPLATE_FILE = "chat_template.jinja"
VERSION_FILES = (WEIGHTS_FILE, CONFIG_FILE, TEMPLATE_FILE)
"""Files of a version's folder, all of them required."""

Sha256 = Field(pattern=r"^[0-9a-f]{64}$")


class BlobRef(NamedTuple):
    """What a manifest keeps from being collected."""

    sha256: str
    size: int
    """Bytes."""


class FileRecord(Document):
    """One file of a version."""

    path: Literal["adapter_model.safetensors", "adapter_config.json", "chat_template.jinja"]
    sha256: str = Sha256
    size: int = Field(ge=0)
    """Bytes."""


class Provenance(Document):
    """How a version came to be. Not part of its identity: the same content made twice is one version."""

    made_by: str
    """The job's resource name, or 'registered by ...'."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """As resolved; JSON values only."""
    dataset_sha256: str = ""
    seed: int | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    package_versions: dict[str, str] = Field(default_factory=dict)


class VersionManifest(Document):
    """An immutable, verified adapter version."""

    schema_version: Literal[1] = 1
    tenant: str
    adapter: str
    version: str = Sha256
    created_at: datetime
    files: tuple[FileRecord, ...]
    base_model: str
    base_revision: str | None
    base_digest: str = Sha256
    template_digest: str = Sha256
    """sha256 of chat_template.jinja's text."""
    config: dict[str, Any]
    """The adapter's settings that change what it computes, as `peft_check` normalises them."""
    rank: int
    """The largest of its modules; what the fleet's maximum is compared with."""
    alpha: float
    target_modules: tuple[str, ...]
    dtype: str
    """Of the stored tensors: F32, F16 or BF16."""
    parameters: int
    made: Provenance
    tokenizer_digest: str = ""
    """`BaseInfo.tokenizer_digest` of the backbone; empty in manifests from before it was kept."""

    document_sha256: str = Field(default="", exclude=True)
    """What a signature is over: the sha256 of this manifest as it is stored. Set by whoever reads or writes it there; no
    part of it, and empty for one that was never stored."""

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """Every blob that belongs to the version: garbage collection keeps these, and these only."""
        return tuple(BlobRef(file.sha256, file.size) for file in self.files)

    def file(self, path: str) -> FileRecord:
        """Returns the record of one of VERSION_FILES."""
        return next(file for file in self.files if file.path == path)


def version_digest(*, weights: str, config: dict[str, Any], base: str, template: str) -> str:
    """Returns a version's identity: sha256 over weights, normalised settings, base and template.

    Args:
        weights: sha256 of adapter_model.safetensors.
        config: normalised settings (`peft_check.CheckedAdapter.config`), free of paths and of set order.
        base: the backbone's digest.
        template: sha256 of the chat template's text.
    """
    content = {"schema": 1, "weights": weights, "config": config, "base": base, "template": template}
    return hashlib.sha256(canonical(content)).hexdigest()


class SignatureRecord(Document):
    """An Ed25519 signature over a version's manifest."""

    schema_version: Literal[1] = 1
    tenant: str
    adapter: str
    version: str = Sha256
    manifest_sha256: str = Sha256
    key_id: str
    """First 16 hex digits of the sha256 of the public key's 32 bytes."""
    public_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")
    by: str
    """Who handed it in."""
    at: datetime


Route = Literal["swapped", "merged", "auto"]
"""How an alias's requests are to be served: with the adapter beside the backbone; by weights that it is merged into, as soon as
those are ready; or so while its traffic deserves it."""
MAX_TARGET_MS = 3_600_000


class LatencyTarget(Document):
    """What an alias's requests should take at most, with the route `auto`; 0 asks for nothing."""

    first_token_ms: int = Field(default=0, ge=0, le=MAX_TARGET_MS)
    """From arrival to the first token, of 95 in 100 requests."""
    between_tokens_ms: int = Field(default=0, ge=0, le=MAX_TARGET_MS)
    """From one token to the next: a request's mean, of 95 in 100 requests."""


NO_TARGET = LatencyTarget()


class AliasShare(Document):
    """A version's part of a split alias."""

    version: str = Sha256
    weight: int = Field(ge=1, le=1000)
    """In relation to the other shares' weights."""


class AliasRecord(Repeatable):
    """Where an alias points since `at`."""

    tenant: str
    adapter: str
    alias: str
    version: str = Sha256
    by: str
    reason: str
    at: datetime
    removed: bool = False
    """The alias is gone since this record: it protects nothing and resolves to nothing; `version` is where it pointed."""
    restores: int = 0
    """Number of the record that a roll-back returned to; 0 for any other move. A change of the route leaves it as it was."""
    split: tuple[AliasShare, ...] = ()
    """Two versions or more that share the alias's requests; `version` is the heaviest. Empty: all go to `version`."""
    route: Route = "swapped"
    """Stays when the alias moves, splits or rolls back; an alias that was removed and is set again begins as swapped."""
    target: LatencyTarget = Field(default=NO_TARGET, exclude_if=lambda target: target == NO_TARGET)
    """Goes with the route. Not written where there is none: a node of the release before, which refuses fields that it does not
    know, goes on reading what is moved while nodes are upgraded one at a time."""

    @property
    def shares(self) -> tuple[AliasShare, ...]:
        """The versions that the alias names, whether it is split or not; these are protected from deletion."""
        return self.split or (AliasShare(version=self.version, weight=1),)

    def names(self, version: str) -> bool:
        """Whether the alias sends requests to a version."""
        return any(share.version == version for share in self.shares)


class DeletionRecord(Repeatable):
    """A change of whether a version, or a data set, is there for its callers; the newest record of its log holds.

    No log at all means `live`. Who may append which state after which:

    - `deleted` after `live`: the registry, on a delete call. The thing is hidden at once from get, list and
      resolve; its bytes stay, at least until `purge_after`.
    - `live` after `deleted` or `purged`: publishing the same content again, or an alias that won a race against the
      deletion. The thing is visible again.
    - `purging` after `deleted`: garbage collection alone, after `purge_after`, when no alias's current record (target or
      split) and no running job names the thing. From here on the manifest may vanish at any moment, so nobody may
      append `live`: publishing answers that it must be tried again. A collector that finds `purging` goes on with it.
    - `purged` after `purging`: garbage collection, once the manifest is gone; its blobs are orphans like any others.

    Because a log's numbers have one winner each, a collector and a publisher can never both have their way.
    """

    tenant: str
    state: Literal["live", "deleted", "purging", "purged"]
    at: datetime
    purge_after: datetime | None = None
    """Set with `deleted`: before this moment garbage collection must leave the thing alone."""
    by: str
    reason: str = ""

    @property
    def hides(self) -> bool:
        """Whether callers must not see the thing."""
        return self.state != "live"


class KeyRecord(Document):
    """An API key as kept: its hash only."""

    id: str
    """First 16 hex digits of the hash."""
    sha256: str = Sha256
    display_name: str
    created_at: datetime
    revoked_at: datetime | None = None
    request_id: str = ""
    """Of the request that issued it, if that had one: a repeat revokes this key, because its text was lost."""


class TenantLimits(Document):
    """What a tenant may use; 0 is unlimited."""

    requests_per_minute: int = Field(default=0, ge=0)
    tokens_per_minute: int = Field(default=0, ge=0)
    """Prompt and completion together."""
    concurrency: int = Field(default=0, ge=0)
    """Requests at once."""
    queue_length: int = Field(default=0, ge=0)
    """Requests that wait."""
    max_running_jobs: int = Field(default=0, ge=0)
    max_queued_jobs: int = Field(default=0, ge=0)
    """Jobs that wait."""


class TenantRecord(Repeatable):
    """A tenant as of one change."""

    tenant: str
    created_at: datetime
    changed_at: datetime
    disabled: bool = False
    weight: int = Field(default=1, ge=1, le=1000)
    """Its share of a busy fleet, beside the other tenants' weights."""
    limits: TenantLimits = TenantLimits()
    keys: tuple[KeyRecord, ...] = ()


DatasetFormat = Literal["jsonl", "parquet"]


class DatasetFinding(Document):
    """Something that the validator found and that did not keep the data set out."""

    level: Literal["info", "warning"]
    code: str
    message: str
    """No row's text."""
    fix: str = ""
    count: int = 0
    """Rows that it is true of."""
    lines: tuple[int, ...] = ()
    """The first few of them."""


class DatasetManifest(Document):
    """An uploaded, validated data set. Immutable; the id is derived from format and content."""

    schema_version: Literal[1] = 1
    tenant: str
    id: str
    display_name: str
    sha256: str = Sha256
    size: int = Field(ge=0)
    """Bytes."""
    rows: int = Field(ge=0)
    format: DatasetFormat
    created_at: datetime
    findings: tuple[DatasetFinding, ...] = ()

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """Every blob that belongs to the data set: garbage collection keeps these, and these only."""
        return (BlobRef(self.sha256, self.size),)


class HoldRecord(Numbered):
    """Whether a job needs its data sets; the newest record of its log holds. No log at all means that it does not.

    While one says `held`, garbage collection removes none of the data sets, deleted or not.
    """

    tenant: str
    job: str
    state: Literal["held", "released"]
    datasets: tuple[str, ...]
    at: datetime
    by: str


class AdapterRecord(Document):
    """An adapter as it is listed. Not stored: read from its aliases."""

    tenant: str
    adapter: str
    aliases: tuple[AliasRecord, ...]
