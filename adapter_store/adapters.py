"""A tenant's adapters, as they are listed. Nothing of them is stored: versions and aliases make them."""

from adapter_store import layout
from adapter_store.aliases import Aliases
from adapter_store.backends.protocol import Backend
from adapter_store.errors import NotFound
from adapter_store.manifest import AdapterRecord, VersionManifest
from adapter_store.names import parse_id
from adapter_store.paging import Page, read_page
from adapter_store.tenants import Tenants
from adapter_store.versions import Versions


class Adapters:
    """A tenant's adapters: they exist by having a version that is not deleted."""

    def __init__(self, backend: Backend, tenants: Tenants, aliases: Aliases, versions: Versions) -> None:
        self._backend, self._tenants, self._aliases, self._versions = backend, tenants, aliases, versions

    def get(self, tenant: str, adapter: str) -> AdapterRecord:
        """Returns an adapter with its aliases. Raises NotFound when it has no version."""
        if not self._versions.any_visible(tenant, adapter):
            raise _missing(adapter)
        return self._record(tenant, adapter)

    def list(self, tenant: str, page_size: int = 0, page_token: str = "") -> Page[AdapterRecord]:
        """Returns a tenant's adapters in the order of their ids. Raises NotFound when there is no such tenant."""

        def load(name: str) -> AdapterRecord | None:
            record = self._record(tenant, parse_id("adapter", name.removesuffix("/")))
            # An alias names a version that is there, so only adapters without one cost a further look.
            return record if record.aliases or self._versions.any_visible(tenant, record.adapter) else None

        page = read_page(self._backend, layout.adapters(tenant), page_size, page_token, load)
        if page.is_empty_list(page_token):
            self._tenants.get(tenant)
        return page

    def list_versions(
        self, tenant: str, adapter: str, page_size: int = 0, page_token: str = ""
    ) -> Page[VersionManifest]:
        """Like `Versions.list`, but raises NotFound when there is no such adapter."""
        page = self._versions.list(tenant, adapter, page_size, page_token)
        if page.is_empty_list(page_token):
            raise _missing(adapter)
        return page

    def _record(self, tenant: str, adapter: str) -> AdapterRecord:
        return AdapterRecord(tenant=tenant, adapter=adapter, aliases=self._aliases.list(tenant, adapter))


def _missing(adapter: str) -> NotFound:
    return NotFound(f"adapter {adapter} does not exist; `graft adapter list` shows the tenant's")
