"""The registry's calls: tenants, keys, adapters, versions, aliases. Mixed into `Client`.

Owns which of them may be repeated: all. A change goes out under an id of its own, by which the service knows its repeat. Does
not own folders on this machine (`folders.py`).
"""

import io
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.client.channel import Answer, Channel
from graftwork.client.folders import DamagedDownload, Receiver, adapter_files, new_folder, open_plain, plain_size
from graftwork.v1 import common_pb2, registry_pb2, registry_pb2_grpc

if TYPE_CHECKING:  # what it needs costs every command's start, and few sign
    from graftwork.signing import SigningKey

CHUNK_BYTES = 1 << 20
"""Of an upload; the services take at most this much a message."""
UPLOAD_TIMEOUT_S = 3600.0


def new_request_id() -> str:
    """An id for one change, see the protocol's `request_id`."""
    return uuid.uuid4().hex


def tenant_name(tenant: str) -> str:
    """`tenants/{tenant}`, or "" when a tenant's key shall say which."""
    return f"tenants/{tenant}" if tenant else ""


class RegistryCalls:
    """Calls of RegistryService; `Client` sets the attributes."""

    trainer: Channel
    _registry: registry_pb2_grpc.RegistryServiceStub

    def _change(self, method: Callable[..., Answer], request: Any) -> Answer:
        """Sends a change under an id of its own, or the request's: repeated until an answer comes, carried out once."""
        request.request_id = request.request_id or new_request_id()
        return self.trainer.call(method, request, idempotent=True)

    # Tenants and keys

    def create_tenant(self, tenant: str) -> registry_pb2.Tenant:
        request = registry_pb2.CreateTenantRequest(tenant_id=tenant)
        return self._change(self._registry.CreateTenant, request)

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
        """Changes what the request sets."""
        return self._change(self._registry.UpdateTenant, request)

    def create_key(self, tenant: str, display_name: str = "") -> registry_pb2.CreateApiKeyResponse:
        request = registry_pb2.CreateApiKeyRequest(parent=tenant_name(tenant), display_name=display_name)
        return self._change(self._registry.CreateApiKey, request)

    def list_keys(self, tenant: str) -> list[registry_pb2.ApiKey]:
        found, token = [], ""
        while True:
            request = registry_pb2.ListApiKeysRequest(parent=tenant_name(tenant), page_token=token)
            page = self.trainer.call(self._registry.ListApiKeys, request, idempotent=True)
            found += page.keys
            if not (token := page.next_page_token):
                return found

    def revoke_key(self, tenant: str, key_id: str) -> registry_pb2.ApiKey:
        request = registry_pb2.RevokeApiKeyRequest(parent=tenant_name(tenant), id=key_id)
        return self._change(self._registry.RevokeApiKey, request)

    def list_audit(self, request: registry_pb2.ListAuditEntriesRequest) -> Iterator[registry_pb2.AuditEntry]:
        """Yields entries of the audit log, newest first, until there are no more that the request takes."""
        asked = registry_pb2.ListAuditEntriesRequest()
        asked.CopyFrom(request)
        while True:
            page = self.trainer.call(self._registry.ListAuditEntries, asked, idempotent=True)
            yield from page.entries
            if not page.next_page_token:
                return
            asked.page_token = page.next_page_token

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

    def sign_version(self, version: registry_pb2.Version, key: "SigningKey") -> registry_pb2.VersionSignature:
        """Signs a version as the registry showed it, here; only the signature is sent. May be repeated."""
        request = registry_pb2.SignVersionRequest(
            name=version.name, public_key=key.public.raw, signature=key.sign(version.manifest_sha256)
        )
        return self.trainer.call(self._registry.SignVersion, request, idempotent=True)

    def set_alias(self, name: str, version: str, expected: int | None = None, reason: str = "") -> registry_pb2.Alias:
        request = registry_pb2.SetAliasRequest(name=name, version=version, expected_number=expected, reason=reason)
        return self._change(self._registry.SetAlias, request)

    def split_alias(
        self, name: str, weights: Mapping[str, int], expected: int | None = None, reason: str = ""
    ) -> registry_pb2.Alias:
        """Shares an alias's requests out between versions, by digest and weight."""
        split = [registry_pb2.AliasShare(version=version, weight=weight) for version, weight in weights.items()]
        request = registry_pb2.SetAliasRequest(name=name, split=split, expected_number=expected, reason=reason)
        return self._change(self._registry.SetAlias, request)

    def alias_history(self, name: str) -> list[registry_pb2.Alias]:
        found, token = [], ""
        while True:
            request = registry_pb2.ListAliasHistoryRequest(name=name, page_token=token)
            page = self.trainer.call(self._registry.ListAliasHistory, request, idempotent=True)
            found += page.records
            if not (token := page.next_page_token):
                return found

    def roll_back_alias(self, name: str, expected: int | None = None, reason: str = "") -> registry_pb2.Alias:
        request = registry_pb2.RollbackAliasRequest(name=name, expected_number=expected, reason=reason)
        return self._change(self._registry.RollbackAlias, request)

    def set_alias_policy(
        self,
        name: str,
        route: str,
        expected: int | None = None,
        reason: str = "",
        *,
        first_token_ms: int = 0,
        between_tokens_ms: int = 0,
    ) -> registry_pb2.Alias:
        """Says how an alias's requests are to be served: `merged`, `swapped` or `auto`, with latency targets for `auto`."""
        request = registry_pb2.SetAliasPolicyRequest(
            name=name,
            route=route,
            expected_number=expected,
            reason=reason,
            first_token_ms=first_token_ms,
            between_tokens_ms=between_tokens_ms,
        )
        return self._change(self._registry.SetAliasPolicy, request)

    def delete_alias(self, name: str, expected: int | None = None, reason: str = "") -> registry_pb2.Alias:
        request = registry_pb2.DeleteAliasRequest(name=name, expected_number=expected, reason=reason)
        return self._change(self._registry.DeleteAlias, request)

    def delete_version(self, name: str, reason: str = "") -> registry_pb2.Deletion:
        request = registry_pb2.DeleteVersionRequest(name=name, reason=reason)
        return self._change(self._registry.DeleteVersion, request)

    def delete_adapter(self, name: str, reason: str = "") -> list[registry_pb2.Deletion]:
        request = registry_pb2.DeleteAdapterRequest(name=name, reason=reason)
        return list(self._change(self._registry.DeleteAdapter, request).versions)

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
        return self._change(self._registry.DeleteDataset, request)

    # Files of adapters

    def register_adapter(
        self, tenant: str, adapter: str, folder: Path, alias: str = "", sent: Callable[[int], None] = lambda _: None
    ) -> registry_pb2.RegisterAdapterResponse:
        """Registers an adapter that was trained elsewhere. Repeated when the service goes away: the same content is one
        version, and its alias moves once.

        Args:
            tenant: the owner; empty for a tenant's own key.
            adapter: the adapter's id.
            folder: a PEFT folder or a repository that holds one; see `folders.adapter_files`.
            alias: to point at the version; empty moves none.
            sent: called with the number of bytes of each piece, for a progress bar; with a negative one when the upload
                begins again.

        Raises:
            InvalidFolder: the folder cannot be sent.
            RemoteInvalid: the adapter failed a check at the door; nothing of it is visible.
            OSError: a file cannot be read.
        """
        files = adapter_files(folder)
        header = registry_pb2.RegisterAdapterHeader(
            parent=tenant_name(tenant), adapter_id=adapter, alias=alias, request_id=new_request_id()
        )
        for name, source in files.items():
            header.files.add(path=name, size_bytes=plain_size(source))  # an unreadable file fails here, by name

        done = 0

        def pieces() -> Iterator[registry_pb2.RegisterAdapterRequest]:
            nonlocal done
            sent(-done)
            done = 0
            yield registry_pb2.RegisterAdapterRequest(header=header)
            for name, source in files.items():
                yield registry_pb2.RegisterAdapterRequest(file=registry_pb2.RegisterAdapterFile(path=name))
                with io.BytesIO(source) if isinstance(source, bytes) else open_plain(source) as data:
                    while chunk := data.read(CHUNK_BYTES):
                        yield registry_pb2.RegisterAdapterRequest(chunk=chunk)
                        done += len(chunk)
                        sent(len(chunk))

        return self.trainer.call(self._registry.RegisterAdapter, pieces, idempotent=True, timeout=UPLOAD_TIMEOUT_S)

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
