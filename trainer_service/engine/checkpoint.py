"""Checkpoints of a job in its own folder: everything that decides the steps still to come.

Layout: `{work}/checkpoints/{step:08d}/` with adapter.safetensors, best.safetensors (once there is one), state.pt
(optimizer, loss scale) and progress.json. The step is the position in the data and in all random numbers, which are functions
of seed and step; no generator's state is kept. Written beside, flushed, renamed: a folder with a final name is whole. Only
the newest is kept. Not meant to be read by anything but this module.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from trainer_service.engine.errors import UnusableRecipe

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Progress:
    """How far the job is, and what it has seen of the held-out rows."""

    base_digest: str
    """Of the backbone: a job does not go on on another one."""
    step: int = 0
    base_loss: float | None = None
    best_loss: float | None = None
    """Of the trained epochs; step 0 does not count."""
    best_step: int = 0
    skipped: int = 0
    """Steps whose loss or gradient was no number, and which changed nothing."""
    skipped_in_a_row: int = 0
    """Of them, up to the newest step."""


PROGRESS = TypeAdapter(Progress)


@dataclass(frozen=True)
class Checkpoint:
    """One point to go on from."""

    progress: Progress
    adapter: State
    best: State | None
    state: dict[str, Any]
    """Optimizer and loss scale, as torch saves them."""


class CheckpointFolder:
    """The newest checkpoint of one job."""

    def __init__(self, work_dir: Path) -> None:
        """Uses `{work_dir}/checkpoints`, made when missing."""
        self._root = work_dir / "checkpoints"
        self._root.mkdir(parents=True, exist_ok=True)

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint and then drops the ones before it."""
        name = f"{checkpoint.progress.step:08d}"
        partial = self._root / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save_file(checkpoint.adapter, partial / "adapter.safetensors")
        if checkpoint.best is not None:
            save_file(checkpoint.best, partial / "best.safetensors")
        torch.save(checkpoint.state, partial / "state.pt")
        (partial / "progress.json").write_bytes(PROGRESS.dump_json(checkpoint.progress))
        for file in (*partial.iterdir(), partial):
            _flush(file)
        final = self._root / name
        # The same step again: only after a crash between this job's rename and its next step.
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush(self._root)
        for other in self._root.iterdir():
            if other != final:
                shutil.rmtree(other, ignore_errors=True)

    def newest(self, base_digest: str) -> Checkpoint | None:
        """Loads the newest whole checkpoint, or None.

        Raises:
            UnusableRecipe: it was made on another backbone.
        """
        whole = sorted(path for path in self._root.iterdir() if path.name.isdigit())
        if not whole:
            return None
        folder = whole[-1]
        progress = PROGRESS.validate_json((folder / "progress.json").read_bytes())
        if progress.base_digest != base_digest:
            raise UnusableRecipe("the backbone was replaced while the job was under way; create the job again")
        best = folder / "best.safetensors"
        return Checkpoint(
            progress=progress,
            adapter=load_file(folder / "adapter.safetensors"),
            best=load_file(best) if best.exists() else None,
            # weights_only: tensors and plain values, never code.
            state=torch.load(folder / "state.pt", weights_only=True),
        )


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
