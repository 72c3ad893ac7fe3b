"""Run by test_serving_cached_blocks.py in the service's place: the service, which also writes down what requests found in the prefix cache.

One line for each request that the engine answers, there before the caller has anything of the answer: a JSON list of the tokens that
were found, those of its prompt, and those of a block. The file is `cached`, beside the address file.
"""

import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from serving_service.__main__ import main
from serving_service.engine.vllm_engine import VllmEngine

_outputs = VllmEngine.outputs


async def _telling(self: VllmEngine, *args: Any, **more: Any) -> AsyncGenerator[Any, None]:
    told = False
    async with contextlib.aclosing(_outputs(self, *args, **more)) as outputs:
        async for output in outputs:
            if not told:
                block = self._running().vllm_config.cache_config.block_size
                with Path(os.environ["GRAFT_SERVING_ADDRESS_FILE"]).with_name("cached").open("a") as file:
                    file.write(json.dumps([output.num_cached_tokens, len(output.prompt_token_ids), block]) + "\n")
                told = True
            yield output


if __name__ == "__main__":
    VllmEngine.outputs = _telling  # type: ignore[method-assign]
    sys.exit(main())
