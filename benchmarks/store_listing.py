"""Listing many adapters: a tenant's page of 100 in a store of any size, and all pages of tenants of growing size."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from adapter_store import AdapterStore, layout
from adapter_store.backends.open import open_backend
from adapter_store.backends.protocol import Backend
from adapter_store.documents import encode
from adapter_store.manifest import AliasRecord, FileRecord, Provenance, VersionManifest, version_digest
from adapter_store.numbered_log import NumberedLog

_WRITERS = 16
_LARGE = "large"  # the tenant whose page of 100 is listed


def listing(place: str, adapters: int) -> dict[str, Any]:
    """Fills a store with `adapters` adapters of a tenth as many tenants, then lists.

    Manifests and aliases are written as they are stored, without the uploads: a listing reads nothing else.
    """
    backend = open_backend(place)
    store = AdapterStore(backend)
    _fill(backend, _LARGE, 100)
    page_alone = _timed_page(store)
    tenants = adapters // 10
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(lambda number: _fill(backend, f"tenant-{number:05d}", 10), range(tenants)))
    page_among_all = _timed_page(store)
    _fill(backend, "twice", 200)
    start = time.perf_counter()
    found = _all(store, "twice")
    twice = time.perf_counter() - start
    assert found == 200
    start = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        total = sum(pool.map(lambda number: _all(store, f"tenant-{number:05d}"), range(tenants)))
    everything = time.perf_counter() - start
    assert total == tenants * 10
    return {
        "adapters": total,
        "tenants": tenants,
        "page_of_100_s": page_among_all,
        "page_of_100_in_an_empty_store_s": page_alone,
        "200_over_100_adapters": twice / page_among_all,
        "all_s": everything,
    }


def _timed_page(store: AdapterStore) -> float:
    start = time.perf_counter()
    page = store.adapters.list(_LARGE, page_size=100)
    taken = time.perf_counter() - start
    assert len(page.items) == 100
    return taken


def _all(store: AdapterStore, tenant: str) -> int:
    count, token = 0, ""
    while True:
        page = store.adapters.list(tenant, page_size=100, page_token=token)
        count += len(page.items)
        if not (token := page.next_page_token):
            return count


def _fill(backend: Backend, tenant: str, adapters: int) -> None:
    for number in range(adapters):
        adapter = f"adapter-{number:04d}"
        manifest = _manifest(tenant, adapter)
        backend.create(layout.version(tenant, adapter, manifest.version), encode(manifest))
        log = NumberedLog(backend, layout.alias_log(tenant, adapter, "prod"), AliasRecord, "alias")
        about: dict[str, Any] = {"tenant": tenant, "adapter": adapter, "alias": "prod", "version": manifest.version}
        log.append(AliasRecord(number=1, by="benchmark", reason="", at=datetime.now(UTC), **about))


def _manifest(tenant: str, adapter: str) -> VersionManifest:
    weights = hashlib.sha256(f"{tenant}/{adapter}".encode()).hexdigest()
    other = hashlib.sha256(b"").hexdigest()
    config: dict[str, Any] = {"r": 8}
    files = ("adapter_model.safetensors", "adapter_config.json", "chat_template.jinja")
    return VersionManifest(
        tenant=tenant, adapter=adapter, version=version_digest(weights=weights, config=config, base=other, template=other),
        created_at=datetime.now(UTC),
        files=tuple(FileRecord.model_validate({"path": path, "sha256": weights if path == files[0] else other, "size": 1}) for path in files),
        base_model="base", base_revision=None, base_digest=other, template_digest=other, config=config, rank=8, alpha=16,
        target_modules=("q_proj", "v_proj"), dtype="F16", parameters=1, made=Provenance(made_by="benchmark"),
    )  # fmt: skip
