"""The one contract between training and serving: tenants, data sets, adapter versions and aliases on an object store.

A leaf library: it imports no service, no gRPC and no torch. Start at `open_store`.
"""

from adapter_store.base import BaseInfo, read_base
from adapter_store.keys import IssuedKey
from adapter_store.manifest import (
    AdapterRecord,
    AliasRecord,
    DatasetManifest,
    FileRecord,
    KeyRecord,
    Provenance,
    Route,
    TenantRecord,
    VersionManifest,
)
from adapter_store.merged import MergedFile, MergedManifest
from adapter_store.paging import Page
from adapter_store.store import AdapterStore, Target, open_store

__all__ = [
    "AdapterRecord",
    "AdapterStore",
    "AliasRecord",
    "BaseInfo",
    "DatasetManifest",
    "FileRecord",
    "IssuedKey",
    "KeyRecord",
    "MergedFile",
    "MergedManifest",
    "Page",
    "Provenance",
    "Route",
    "Target",
    "TenantRecord",
    "VersionManifest",
    "open_store",
    "read_base",
]
