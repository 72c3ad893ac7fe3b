"""What the core asks of engines of merged weights, and of what makes them.

Owns the protocol. Imports nothing heavy. Does not own any engine: `merged_engines` has the real ones; what is asked of one that runs is
`protocol.Engine`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serving_service.engine.protocol import Engine

MERGED_WEIGHTS = "merged.safetensors"
"""In a folder of merged weights: the tensors that differ from the backbone's."""


@dataclass(frozen=True, slots=True)
class MergedFiles:
    """Weights that an adapter changes, merged: only those tensors, in safetensors.

    Attributes:
        folder: `merged.safetensors` and `merged.json` (base digest, adapter digest, tensors, dtype).
        size: bytes.
        tensors: how many differ from the backbone's.
    """

    folder: Path
    size: int
    tensors: int


class MergedEngines(Protocol):
    """Makes merged weights, and engines without LoRA that run them beside the frozen backbone."""

    async def merge(self, adapter: Path, into: Path) -> MergedFiles:
        """Merges an adapter onto the unquantised backbone, in a process of its own, into a new folder.

        Cancelling ends the process before the cancellation is passed on.

        Args:
            adapter: folder with its PEFT files; only read.
            into: made here; what a failure leaves in it is the caller's to delete.

        Raises:
            AdapterRefused: it cannot be merged. EngineUnavailable: the process died.
        """
        ...

    async def start(self, name: str, merged: Path) -> Engine:
        """Starts an engine for merged files, ready for requests; the caller stops it. It answers in OpenAI's form too where
        the backbone's engine does (`openai_protocol.OpenAIEngine`).

        Cancelling ends what was begun of it before the cancellation is passed on.

        Args:
            name: for logs.
            merged: `MergedFiles.folder`; stays until the engine has stopped.

        Raises:
            EngineUnavailable: it did not come up.
        """
        ...

    def bytes_of(self, merged: MergedFiles) -> int:
        """Memory that one more engine of these costs, for the budget."""
        ...
