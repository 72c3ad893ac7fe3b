"""From a model's name to a folder of verified files, out of the store.

Owns what a name means and which versions a server may load. Does not own vLLM's side of it (`plugin.py`), and imports no
vLLM, so that it can be tested without.
"""

import logging
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from adapter_store import AdapterStore, VersionManifest, read_base
from adapter_store.backends.open import open_backend
from adapter_store.base import chat_template_of
from adapter_store.errors import InvalidBase, NotFound
from adapter_store.names import parse_digest, parse_id
from graftwork.errors import ErrorCode, GraftError
from graftwork.signing import TrustedKeys
from graftwork.template import template_digest
from graftwork_vllm_resolver.settings import ResolverSettings

log = logging.getLogger(__name__)


class NotServed(GraftError):
    """There is such an adapter, and this server must not load it."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


@dataclass(frozen=True, slots=True)
class ModelName:
    """`tenant/adapter` (its alias prod), `tenant/adapter:alias` or `tenant/adapter@digest`."""

    tenant: str
    adapter: str
    alias: str | None = None
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelName | None":
        """Reads a name; None for one without a tenant, which is another resolver's.

        Raises:
            InvalidName: it has a tenant, and is none of the three forms.
        """
        tenant, slash, rest = text.partition("/")
        if not slash:
            return None
        parse_id("tenant", tenant)
        if "@" in rest:
            adapter, _, version = rest.partition("@")
            return cls(tenant, parse_id("adapter", adapter), version=parse_digest("version", version))
        adapter, colon, alias = rest.partition(":")
        return cls(tenant, parse_id("adapter", adapter), alias=parse_id("alias", alias) if colon else None)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A version on this machine. `folder` holds adapter_model.safetensors, adapter_config.json and chat_template.jinja."""

    manifest: VersionManifest
    folder: Path


class Adapters:
    """The store's adapters for one server; thread-safe.

    Args:
        settings: which store, whose adapters, where to.

    Raises:
        StoreMisconfigured, StoreUnavailable: the store cannot be opened.
    """

    def __init__(self, settings: ResolverSettings) -> None:
        self._settings = settings
        # Not `open_store`: its probe writes, and a server that only reads needs no right to.
        self._store = AdapterStore(open_backend(settings.store_url))
        self._trusted = TrustedKeys(settings.trusted_keys) if settings.trusted_keys else None
        self._hashing = threading.Lock()

    def fetch(self, base_model: str, model: str) -> Fetched | None:
        """Brings the version that a name means now to this machine.

        Args:
            base_model: folder or Hub id of the model that the server runs.
            model: the name in a request.

        Returns:
            None for a name without a tenant.

        Raises:
            InvalidName, NotFound: there is no such version, or it is of a tenant that is not served here.
            NotServed: made for another backbone, signed by nobody who is trusted, or its tenant is disabled.
            CorruptBlob, CorruptRecord: the store's bytes are damaged.
            StoreUnavailable: the store does not answer.
        """
        name = ModelName.parse(model)
        if name is None:
            return None
        if not self._settings.serves(name.tenant):
            raise NotFound(f"no adapter {name.adapter} of tenant {name.tenant}")  # as if there were none
        if self._store.tenants.get(name.tenant).disabled:
            raise NotServed(f"tenant {name.tenant} is disabled; `graft tenant enable {name.tenant}` undoes that")
        manifest = self._store.resolve(name.tenant, name.adapter, alias=name.alias, version=name.version)
        self._check_base(manifest, base_model)
        self._check_signature(manifest)
        place = self._settings.cache_dir / manifest.tenant / manifest.adapter / manifest.version
        return Fetched(manifest, self._store.versions.fetch(manifest, place))

    def _check_base(self, manifest: VersionManifest, base_model: str) -> None:
        with self._hashing:  # the first request hashes the weights; the others wait for it instead of hashing too
            digest = self._settings.base_digest or _base_digest(base_model)
        if manifest.base_digest != digest:
            raise NotServed(
                f"version {manifest.version:.12} of {manifest.adapter} was made for the backbone {manifest.base_model} "
                f"({manifest.base_digest:.12}), and this server runs {base_model} ({digest:.12}): serve that backbone, or "
                "train the adapter on this one"
            )
        if (folder := _folder(base_model)) and manifest.template_digest != template_digest(chat_template_of(folder)):
            log.warning(
                "version %.12s of %s/%s was trained with another chat template than the model's own: start the server with "
                "--chat-template and the adapter's chat_template.jinja, or its answers to chats will be off",
                manifest.version,
                manifest.tenant,
                manifest.adapter,
            )

    def _check_signature(self, manifest: VersionManifest) -> None:
        if self._trusted and self._store.signatures.signer(manifest, self._trusted.current()) is None:
            raise NotServed(
                f"version {manifest.version:.12} of {manifest.adapter} has no valid signature by a key in "
                f"{self._trusted.path}; sign it with `graft adapter sign`"
            )


def _folder(base_model: str) -> Path | None:
    """The model's files on this machine, where vLLM found them; None when they are not there."""
    if Path(base_model).is_dir():
        return Path(base_model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base_model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


@lru_cache(maxsize=8)
def _base_digest(base_model: str) -> str:
    folder = _folder(base_model)
    if folder is None:
        raise InvalidBase(f"the files of {base_model} are not on this machine: set GRAFT_RESOLVER_BASE_DIGEST")
    return read_base(folder).digest
