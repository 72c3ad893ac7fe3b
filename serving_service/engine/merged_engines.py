"""Merged weights, and engines without LoRA that run them beside the frozen backbone.

Implements `engine.merged_protocol.MergedEngines`. Owns the merging process and what one more engine costs. Does not own which
adapters are merged, nor which requests go there (the core's), nor the arithmetic (`merge_child`).
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import structlog

from serving_service.engine.lifeline import tied_program
from serving_service.engine.merged_cost import on_device, own_weights
from serving_service.engine.merged_protocol import MergedFiles
from serving_service.engine.protocol import AdapterRefused, Engine, EngineUnavailable
from serving_service.engine.vllm_engine import VllmEngine
from serving_service.engine.vllm_launch import Merged, has_gpu
from serving_service.settings import ServingSettings

PROCESS_BYTES = 550 << 20
"""Of an engine's process beside weights and cache: interpreter, torch, vLLM, buffers of a step. Measured on a CPU: 430 MiB, and
up to 70 more with larger steps."""

DEVICE_PROCESS_BYTES = 2 << 30
"""The same on a GPU. Not measured: vLLM says of an engine of Llama-3.1-8B's width that it has up to 1.0 GiB for a step, 0.2 outside
torch and 0.1 for CUDA graphs; the driver's context comes on top."""

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

log = structlog.get_logger(__name__)


class VllmMergedEngines:
    """Merges adapters and starts engines for them.

    Args:
        backbone: its folder.
        base_digest: its digest, written into what is merged.
        settings: sizes and limits of the engines.
        frozen: the backbone's engine, whose weights the others share; None shares nothing.
    """

    def __init__(
        self, backbone: str, base_digest: str, settings: ServingSettings, frozen: VllmEngine | None = None
    ) -> None:
        self._backbone, self._base, self._settings = backbone, base_digest, settings
        self._frozen = frozen

    async def merge(self, adapter: Path, into: Path) -> MergedFiles:
        """Merges; see the protocol. `into` appears whole or not at all."""
        partial = into.with_name(f"{into.name}.{secrets.token_hex(4)}.partial")
        job = {"backbone": self._backbone, "base": self._base, "adapter": str(adapter), "into": str(partial)}
        try:
            answer = await _merge(job)
            os.rename(partial, into)
        finally:
            await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
        return MergedFiles(into, answer["size"], answer["tensors"])

    async def start(self, name: str, merged: Path) -> Engine:
        """Starts an engine; see the protocol."""
        engine = VllmEngine(self._backbone, self._settings, Merged(merged, self._shared))
        try:
            info = await engine.start()
        except asyncio.CancelledError:
            await engine.stop()
            raise
        except Exception as error:  # whatever vLLM raises while it starts
            await engine.stop()
            log.error(
                "an engine of merged weights did not start", name=name, cause=type(error).__name__, exc_info=error
            )
            raise EngineUnavailable(f"an engine for {name} did not start; the cause is in the log") from error
        shared = await engine.shared_bytes()
        log.info(
            "an engine of merged weights runs", name=name, seconds=round(info.start_seconds, 1), shared_bytes=shared
        )
        return engine

    def bytes_of(self, merged: MergedFiles) -> int:
        """Returns what stays when it has started; see the protocol. While it starts, the whole model is loaded once more."""
        backbone = Path(self._backbone)
        if not self._shared:
            weights = sum(file.stat().st_size for file in backbone.glob("*.safetensors"))
        elif on_device(self._shared[0]):
            weights = own_weights(backbone, merged.folder)
        else:
            weights = merged.size
        process = DEVICE_PROCESS_BYTES if has_gpu() else PROCESS_BYTES
        return int(weights * self._widening()) + int(self._settings.merged_kv_cache_gib * 2**30) + process

    @property
    def _shared(self) -> tuple[dict[str, Any], ...]:
        return self._frozen.shared_weights if self._frozen is not None else ()

    def _widening(self) -> float:
        """How much larger weights are in the engine than in the checkpoint: a CPU without bfloat16 computes in float32."""
        config = json.loads((Path(self._backbone) / "config.json").read_text())
        stored = _DTYPE_BYTES.get(config.get("dtype") or config.get("torch_dtype"), 2)
        return _DTYPE_BYTES.get(self._frozen.info.dtype, 4) / stored if self._frozen is not None else 1.0


async def _merge(job: dict[str, str]) -> dict[str, Any]:
    """Runs the process and returns what it says; ends it when the caller is cancelled."""
    child = await asyncio.create_subprocess_exec(
        *tied_program("serving_service.engine.merge_child"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        said, _ = await child.communicate(json.dumps(job).encode() + b"\n")
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode != 0:
        raise EngineUnavailable(f"the process that merges ended with status {child.returncode}; see the log above")
    answer = dict(json.loads(said))
    if refusal := answer.get("refused"):
        raise AdapterRefused(f"the adapter cannot be merged: {refusal}; serve it as it is")
    return answer
