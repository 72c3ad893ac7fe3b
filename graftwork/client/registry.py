"""The registry's calls: tenants, keys, adapters, versions, aliases. Mixed into `Client`.

Owns which of them may be repeated. Does not own folders on this machine (`folders.py`).
"""

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from graftwork.client.channel import Channel
from graftwork.client.folders import DamagedDownload, Receiver, adapter_files, new_folder, open_plain, plain_size
from graftwork.v1 import common_pb2, registry_pb2, registry_pb2_grpc

CHUNK_BYTES = 1 << 20
"""Of an upload; the services take at most this much a message."""
UPLOAD_TIMEOUT_S = 3600.0


def tenant_name(tenant: str) -> str:
    """`tenants/{tenant}`, or "" when a tenant's key shall say which."""
    return f"tenants/{tenant}" if tenant else ""


class RegistryCalls:
    """Calls of RegistryService; `Client` sets the attributes."""

    trainer: Channel
    _registry: registry_pb2_grpc.RegistryServiceStub

    # Tenants and keys

    def create_tenant(self, tenant: str) -> registry_pb2.Tenant:
        request = registry_pb2.CreateTenantRequest(tenant_id=tenant)
        return self.trainer.call(self._registry.CreateTenant, request, idempotent=False)

    def list_tenants(self) -> Iterator[registry_pb2.Tenant]:
        token = ""
        while True:
            request = registry_pb2.ListTenantsRequest(page_token=token)
            page = self.trainer.call(self._registry.ListTenants, request, idempotent=True)
            yield from page.tenants
            if not (token := page.next_page_token):
                return

    def get_tenant(self, tenant: str) -> registry_pb2.Tenant:
        request = registry_pb2.GetTenantRequest(name=tenant_name(tenant))
        return self.trainer.call(self._registry.GetTenant, request, idempotent=True)

    def update_tenant(self, request: registry_pb2.UpdateTenantRequest) -> registry_pb2.Tenant:
        """Changes what the request sets; safe to repeat, as it says what shall be, not by how much."""
        idempotent = not request.HasField("expected_number")  # else the repeat would meet its own record and lose
        return self.trainer.call(self._registry.UpdateTenant, request, idempotent=idempotent)

    def create_key(self, tenant: str, display_name: str = "") -> registry_pb2.CreateApiKeyResponse:
        request = registry_pb2.CreateApiKeyRequest(parent=tenant_name(tenant), display_name=display_name)
        return self.trainer.call(self._registry.CreateApiKey, request, idempotent=False)

    def list_keys(self, tenant: str) -> list[registry_pb2.ApiKey]:
        request = registry_pb2.ListApiKeysRequest(parent=tenant_name(tenant))
        return list(self.trainer.call(self._registry.ListApiKeys, request, idempotent=True).keys)

    def revoke_key(self, tenant: str, key_id: str) -> registry_pb2.ApiKey:
        request = registry_pb2.RevokeApiKeyRequest(parent=tenant_name(tenant), id=key_id)
        return self.trainer.call(self._registry.RevokeApiKey, request, idempotent=True)

    # Adapters

    def list_adapters(self, tenant: str) -> Iterator[registry_pb2.Adapter]:
        token = ""
        while True:
            request = registry_pb2.ListAdaptersRequest(parent=tenant_name(tenant), page_token=token)
            page = self.trainer.call(self._registry.ListAdapters, request, idempotent=True)
            yield from page.adapters
            if not (token := page.next_page_token):
                return

    def list_versions(self, adapter: str) -> Iterator[registry_pb2.Version]:
        token = ""
        while True:
            request = registry_pb2.ListVersionsRequest(parent=adapter, page_token=token)
            page = self.trainer.call(self._registry.ListVersions, request, idempotent=True)
            yield from page.versions
            if not (token := page.next_page_token):
                return

    def get_adapter(self, name: str) -> registry_pb2.Adapter:
        return self.trainer.call(self._registry.GetAdapter, registry_pb2.GetAdapterRequest(name=name), idempotent=True)

    def get_version(self, name: str) -> registry_pb2.Version:
        return self.trainer.call(self._registry.GetVersion, registry_pb2.GetVersionRequest(name=name), idempotent=True)

    def set_alias(self, name: str, version: str, expected: int | None = None, reason: str = "") -> registry_pb2.Alias:
        request = registry_pb2.SetAliasRequest(name=name, version=version, expected_number=expected, reason=reason)
        return self.trainer.call(self._registry.SetAlias, request, idempotent=expected is not None)

    def split_alias(
        self, name: str, weights: Mapping[str, int], expected: int | None = None, reason: str = ""
    ) -> registry_pb2.Alias:
        """Shares an alias's requests out between versions, by digest and weight."""
        split = [registry_pb2.AliasShare(version=version, weight=weight) for version, weight in weights.items()]
        request = registry_pb2.SetAliasRequest(name=name, split=split, expected_number=expected, reason=reason)
        return self.trainer.call(self._registry.SetAlias, request, idempotent=expected is not None)

    def alias_history(self, name: str) -> list[registry_pb2.Alias]:
        request = registry_pb2.ListAliasHistoryRequest(name=name)
        return list(self.trainer.call(self._registry.ListAliasHistory, request, idempotent=True).records)

    def roll_back_alias(self, name: str, expected: int | None = None, reason: str = "") -> registry_pb2.Alias:
        request = registry_pb2.RollbackAliasRequest(name=name, expected_number=expected, reason=reason)
        return self.trainer.call(self._registry.RollbackAlias, request, idempotent=False)

    def delete_alias(self, name: str, expected: int | None = None, reason: str = "") -> registry_pb2.Alias:
        request = registry_pb2.DeleteAliasRequest(name=name, expected_number=expected, reason=reason)
        return self.trainer.call(self._registry.DeleteAlias, request, idempotent=False)

    def delete_version(self, name: str, reason: str = "") -> registry_pb2.Deletion:
        request = registry_pb2.DeleteVersionRequest(name=name, reason=reason)
        return self.trainer.call(self._registry.DeleteVersion, request, idempotent=False)

    def delete_adapter(self, name: str, reason: str = "") -> list[registry_pb2.Deletion]:
        request = registry_pb2.DeleteAdapterRequest(name=name, reason=reason)
        return list(self.trainer.call(self._registry.DeleteAdapter, request, idempotent=False).versions)

    # Data sets; uploading one is the trainer's

    def get_dataset(self, name: str) -> common_pb2.Dataset:
        return self.trainer.call(self._registry.GetDataset, registry_pb2.GetDatasetRequest(name=name), idempotent=True)

    def list_datasets(self, tenant: str) -> Iterator[common_pb2.Dataset]:
        token = ""
        while True:
            request = registry_pb2.ListDatasetsRequest(parent=tenant_name(tenant), page_token=token)
            page = self.trainer.call(self._registry.ListDatasets, request, idempotent=True)
            yield from page.datasets
            if not (token := page.next_page_token):
                return

    def delete_dataset(self, name: str, reason: str = "") -> registry_pb2.Deletion:
        request = registry_pb2.DeleteDatasetRequest(name=name, reason=reason)
        return self.trainer.call(self._registry.DeleteDataset, request, idempotent=False)

    # Files of adapters

    def register_adapter(
        self, tenant: str, adapter: str, folder: Path, alias: str = "", sent: Callable[[int], None] = lambda _: None
    ) -> registry_pb2.RegisterAdapterResponse:
        """Registers an adapter that was trained elsewhere. May be repeated: the same content is one version.

        Args:
            tenant: the owner; empty for a tenant's own key.
            adapter: the adapter's id.
            folder: a PEFT folder or a repository that holds one; see `folders.adapter_files`.
            alias: to point at the version; empty moves none.
            sent: called with the number of bytes of each piece, for a progress bar.

        Raises:
            InvalidFolder: the folder cannot be sent.
            RemoteInvalid: the adapter failed a check at the door; nothing of it is visible.
            OSError: a file cannot be read.
        """
        files = adapter_files(folder)
        header = registry_pb2.RegisterAdapterHeader(parent=tenant_name(tenant), adapter_id=adapter, alias=alias)
        for name, source in files.items():
            header.files.add(path=name, size_bytes=plain_size(source))  # an unreadable file fails here, by name

        def pieces() -> Iterator[registry_pb2.RegisterAdapterRequest]:
            yield registry_pb2.RegisterAdapterRequest(header=header)
            for name, source in files.items():
                yield registry_pb2.RegisterAdapterRequest(file=registry_pb2.RegisterAdapterFile(path=name))
                with io.BytesIO(source) if isinstance(source, bytes) else open_plain(source) as data:
                    while chunk := data.read(CHUNK_BYTES):
                        yield registry_pb2.RegisterAdapterRequest(chunk=chunk)
                        sent(len(chunk))

        return self.trainer.call(self._registry.RegisterAdapter, pieces(), idempotent=False, timeout=UPLOAD_TIMEOUT_S)

    def download_version(
        self, name: str, folder: Path, received: Callable[[int, int], None] = lambda _, __: None
    ) -> registry_pb2.Version:
        """Writes a version's files to a new folder, as `PeftModel.from_pretrained` takes it; all of them or nothing.

        Args:
            name: of a version, or of an alias.
            folder: new or empty.
            received: called with the bytes of each piece and of all files together, for a progress bar.

        Raises:
            InvalidFolder: the folder is not empty.
            DamagedDownload: what arrived is not what the version's manifest names.
        """
        request = registry_pb2.DownloadVersionRequest(name=name)
        with new_folder(folder) as partial:
            version, receiver = registry_pb2.Version(), Receiver(partial, ())
            for message in self.trainer.stream(self._registry.DownloadVersion, request, UPLOAD_TIMEOUT_S):
                match message.WhichOneof("part"):
                    case "version":
                        version = message.version
                        files = [(file.path, file.sha256, file.size_bytes) for file in version.files]
                        receiver = Receiver(partial, files)
                    case "file":
                        receiver.begin(message.file.path)
                    case "chunk":
                        receiver.write(message.chunk)
                        received(len(message.chunk), version.size_bytes)
            receiver.finish()
            if not version.name:
                raise DamagedDownload("the service sent nothing; try again")
        return version

    def verify_version(self, name: str) -> registry_pb2.VerifyVersionResponse:
        request = registry_pb2.VerifyVersionRequest(name=name)
        return self.trainer.call(self._registry.VerifyVersion, request, idempotent=True, timeout=UPLOAD_TIMEOUT_S)

    def diff_versions(self, name: str, other: str) -> registry_pb2.DiffVersionsResponse:
        request = registry_pb2.DiffVersionsRequest(name=name, other=other)
        return self.trainer.call(self._registry.DiffVersions, request, idempotent=True, timeout=UPLOAD_TIMEOUT_S)
