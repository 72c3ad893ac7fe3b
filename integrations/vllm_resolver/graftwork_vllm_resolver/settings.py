"""What the plugin is told, from the environment: a stock server has no other place for it."""

from pathlib import Path

import platformdirs
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ALL_TENANTS = "*"


class ResolverSettings(BaseSettings):
    """GRAFT_RESOLVER_* variables."""

    model_config = SettingsConfigDict(env_prefix="GRAFT_RESOLVER_", frozen=True, extra="ignore")

    store_url: str = ""
    """`file:///path` or `s3://bucket/prefix?...`; empty turns the plugin off. Reading it is enough."""
    tenants: str = ""
    """Whose adapters may be served, separated by commas, or `*`. Required: a stock server does not know who is asking, so
    whoever may use it may use every adapter of these tenants."""
    cache_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_cache_dir("graftwork")) / "vllm-resolver")
    """Where versions are kept, one folder each; may be shared by several servers."""
    base_digest: str = ""
    """Of the backbone that the server runs, as `graft status` and manifests name it. Empty: computed once, from the weight
    files, which takes some seconds per 10 GB."""
    trusted_keys: Path | None = None
    """PEM file or folder of public keys: only versions that one of them has signed are served. None: unsigned ones too."""

    def serves(self, tenant: str) -> bool:
        """Whether a tenant's adapters may be served."""
        names = {name.strip() for name in self.tenants.split(",")}
        return ALL_TENANTS in names or tenant in names
