"""The entry point: vLLM calls `register` in each of its processes."""

from graftwork_vllm_resolver.settings import ResolverSettings

NAME = "Graftwork store"


class NoTenants(ValueError):
    """A store without a word on whose adapters are to be served."""


def register() -> None:
    """Registers the resolver where GRAFT_RESOLVER_STORE_URL names a store; nothing otherwise.

    Raises:
        NoTenants: GRAFT_RESOLVER_TENANTS is not set; vLLM does not start then.
        StoreMisconfigured, StoreUnavailable: the store cannot be opened; neither.
    """
    settings = ResolverSettings()
    if not settings.store_url:
        return
    if not settings.tenants.strip():
        raise NoTenants(
            "GRAFT_RESOLVER_STORE_URL is set and GRAFT_RESOLVER_TENANTS is not: say whose adapters this server may load, as "
            "in GRAFT_RESOLVER_TENANTS=acme,bloom, or * for all. Whoever may use the server may use them all."
        )
    from vllm.lora.resolver import LoRAResolverRegistry

    from graftwork_vllm_resolver.resolver import GraftworkResolver

    LoRAResolverRegistry.register_resolver(NAME, GraftworkResolver(settings))
