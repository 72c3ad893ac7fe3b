"""The store as its users see it: one object that hands out the parts.

Owns wiring and opening. Every part is synchronous and may be used from several threads; none may cross a fork.
"""

from dataclasses import dataclass

from adapter_store import layout
from adapter_store.adapters import Adapters
from adapter_store.aliases import DEFAULT_ALIAS, Aliases
from adapter_store.audit import Audit
from adapter_store.backends.open import open_backend
from adapter_store.backends.probe import probe
from adapter_store.backends.protocol import Backend
from adapter_store.blobs import Blobs
from adapter_store.datasets import Datasets
from adapter_store.deletions import Deletions
from adapter_store.errors import InvalidName
from adapter_store.holds import Holds
from adapter_store.manifest import NO_TARGET, LatencyTarget, Route, VersionManifest
from adapter_store.merged import Merged
from adapter_store.outage import Outage
from adapter_store.peft_check import MAX_RANK
from adapter_store.publishing import Publishing
from adapter_store.removal import Removal
from adapter_store.signatures import Signatures
from adapter_store.sweeps import Sweeps
from adapter_store.tenants import Tenants
from adapter_store.versions import Versions


@dataclass(frozen=True, slots=True)
class Target:
    """A version that a request may go to."""

    manifest: VersionManifest
    weight: int
    """In relation to the other targets'."""
    route: Route = "swapped"
    """As the alias's policy says; a version that was named itself is swapped."""
    latency: LatencyTarget = NO_TARGET
    """With the route auto."""


class AdapterStore:
    """Versions, aliases, tenants and data sets on one backend.

    Args:
        backend: an object store that passed `probe`.
        max_rank: the largest LoRA rank that publishing accepts.

    Attributes:
        outage: whether the store answers, as those know who ask it for every request.
        tenants: tenants and their keys.
        datasets: uploaded data sets.
        holds: what running jobs keep from being removed.
        versions: immutable adapter versions.
        aliases: names that move between versions.
        adapters: what a tenant has.
        removal: deleting versions and adapters.
        signatures: who vouches for which version.
        merged: merged weights of versions, where somebody has made them.
        audit: who changed what.
    """

    def __init__(self, backend: Backend, *, max_rank: int = MAX_RANK) -> None:
        self._backend = backend
        blobs, deletions = Blobs(backend), Deletions(backend)
        publishing = Publishing(backend, Sweeps(backend))
        self.outage = Outage()
        self.tenants = Tenants(backend, outage=self.outage)
        self.datasets = Datasets(backend, self.tenants, blobs, deletions, publishing)
        self.holds = Holds(backend)
        self.versions = Versions(backend, blobs, self.tenants, deletions, publishing, max_rank=max_rank)
        self.aliases = Aliases(backend, self.versions)
        self.adapters = Adapters(backend, self.tenants, self.aliases, self.versions)
        self.removal = Removal(self.versions, self.aliases, deletions)
        self.signatures = Signatures(backend)
        self.merged = Merged(backend)
        self.audit = Audit(backend)

    def ping(self) -> None:
        """Returns when the store has answered one small question.

        Raises:
            StoreUnavailable: it has not.
        """
        self._backend.children(layout.TENANTS, limit=1)

    def resolve(
        self, tenant: str, adapter: str, *, alias: str | None = None, version: str | None = None
    ) -> VersionManifest:
        """Returns the version that a name means: a given one, or where an alias points (default `prod`); of a split alias
        the heaviest one. Requests that shall follow the weights go through `targets`.

        Raises:
            InvalidName: both were given.
            NotFound: no such version, alias, adapter or tenant.
        """
        if alias is not None and version is not None:
            raise InvalidName("give an alias or a version, not both")
        if version is None:
            pointed = self.aliases.get(tenant, adapter, alias or DEFAULT_ALIAS).version
            return self.versions.read(tenant, adapter, pointed)
        return self.versions.get(tenant, adapter, version)

    def targets(
        self, tenant: str, adapter: str, *, alias: str | None = None, version: str | None = None
    ) -> tuple[Target, ...]:
        """Like `resolve`, with all versions of a split alias; one with weight 1 otherwise."""
        if version is not None:
            return (Target(self.resolve(tenant, adapter, alias=alias, version=version), 1),)
        record = self.aliases.get(tenant, adapter, alias or DEFAULT_ALIAS)
        # `read`: what an alias names is never deleted, and serving asks this with every cold request.
        return tuple(
            Target(self.versions.read(tenant, adapter, item.version), item.weight, record.route, record.target)
            for item in record.shares
        )


def open_store(url: str, *, max_rank: int = MAX_RANK) -> AdapterStore:
    """Opens a store and makes sure that it can be trusted with numbered logs.

    Args:
        url: `file:///path` or `s3://bucket/prefix?endpoint=http://host:port&region=name`.
        max_rank: the largest LoRA rank that publishing accepts.

    Raises:
        StoreMisconfigured: the URL, bucket or credentials are wrong.
        StoreUnavailable: the store does not answer.
        UnsafeBackend: it overwrites where it should create if absent.
    """
    backend = open_backend(url)
    probe(backend)
    return AdapterStore(backend, max_rank=max_rank)
