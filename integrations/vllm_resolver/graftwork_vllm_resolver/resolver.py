"""The resolver that vLLM asks for an adapter it does not know. Imports vLLM; `plugin.py` imports this when it is wanted.

vLLM asks once a name and remembers the answer until the server ends or the name is unloaded, so an alias means the version
that it pointed at when it was first asked for.
"""

import asyncio
import logging

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver

from adapter_store.errors import InvalidName, NotFound
from graftwork_vllm_resolver.adapters import Adapters, NotServed
from graftwork_vllm_resolver.settings import ResolverSettings

log = logging.getLogger(__name__)


class GraftworkResolver(LoRAResolver):  # type: ignore[misc]  # vLLM has no types for mypy
    """Finds adapters in a Graftwork store.

    Args:
        settings: which store, whose adapters.

    Raises:
        StoreMisconfigured, StoreUnavailable: the store cannot be opened.
    """

    def __init__(self, settings: ResolverSettings) -> None:
        self._adapters = Adapters(settings)

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Brings an adapter to this machine; None, which vLLM answers as 404, for one that it must not serve.

        Raises:
            StoreError: the store does not answer or is damaged: not the same as 'there is none'.
        """
        try:
            found = await asyncio.to_thread(self._adapters.fetch, base_model_name, lora_name)
        except (InvalidName, NotFound):
            return None
        except NotServed as error:
            log.warning("not served: %s", error)
            return None
        if found is None:
            return None
        version = found.manifest.version
        log.info("%.200s is version %s until the server ends or unloads it", lora_name, version)
        # vLLM gives the request an id of its own. Its prefix cache goes by name and path: the path has the digest in it, so
        # that a new version under an old name meets none of the old one's blocks.
        return LoRARequest(lora_name=lora_name, lora_int_id=int(version[:8], 16) or 1, lora_path=str(found.folder))
