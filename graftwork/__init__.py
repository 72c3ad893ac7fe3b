"""Graftwork: one frozen backbone, many grafted LoRA adapters.

This package is what users and both services share. It imports no torch, vllm or transformers. What `graftwork.sdk` offers
can be imported from here, `from graftwork import Client`; it is loaded when it is first asked for, since both services
import this package too.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftwork.sdk import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name[:1].isupper():  # all that the SDK offers is a class; asking it for a submodule would go round in circles
        from graftwork import sdk

        if name in sdk.__all__:
            return getattr(sdk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
