"""`vllm serve` as somebody runs it who has nothing of ours but the resolver plugin."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[3]
PLUGIN = ROOT / "integrations" / "vllm_resolver"


def install_plugin(folder: Path) -> Path:
    """Builds and installs the plugin's distribution to a folder of its own; vLLM finds it by its entry point."""
    source = shutil.copytree(PLUGIN, folder / "source")  # a build leaves files beside its source
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(folder / "site"), str(source)], check=True, timeout=120)
    return folder / "site"


class StockServer:
    """Runs until `stop`; listens on a socket file, so that no port can be taken.

    Args:
        backbone: folder of the model.
        folder: for its socket and log.
        modules: name -> folder of adapters that it loads by itself, the ordinary way.
        site: where the plugin is installed.
        environment: GRAFT_RESOLVER_* and others.
    """

    def __init__(
        self, backbone: Path, folder: Path, modules: dict[str, Path], site: Path, environment: dict[str, str]
    ) -> None:
        self.log, socket = folder / "vllm.log", folder / "s"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("GRAFT_", "VLLM_"))}
        settings = {
            "PYTHONPATH": f"{site}:{ROOT}",
            "VLLM_PLUGINS": "graftwork_vllm_resolver",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "TORCHDYNAMO_DISABLE": "1",
            "HF_HUB_OFFLINE": "1",
        }
        # What `vllm serve` starts: the command itself asks for the version of a package `vllm`, and the CPU build's has
        # another name.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(backbone)]
        command += ["--uds", str(socket)]
        command += ["--served-model-name", "base", "--enforce-eager", "--dtype", "float32", "--max-num-seqs", "8"]
        command += [
            "--enable-lora",
            "--max-loras",
            "2",
            "--max-lora-rank",
            "8",
            "--distributed-executor-backend",
            "uni",
        ]
        command += ["--lora-modules", *(f"{name}={path}" for name, path in modules.items())]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=clean | settings | environment, stdout=log, stderr=log)
        # Each call on a connection of its own: after an error of its own the server closes the one that it came on.
        transport = httpx.HTTPTransport(uds=str(socket), limits=httpx.Limits(max_keepalive_connections=0))
        self.client = httpx.Client(transport=transport, base_url="http://vllm", timeout=120)

    def wait(self, seconds: float) -> None:
        """Returns when it answers. Raises AssertionError, with its log's end, when it ended or took too long."""
        ends = time.monotonic() + seconds
        while True:
            try:
                if self.client.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if self.process.poll() is not None or time.monotonic() > ends:
                raise AssertionError(f"vllm serve did not come up:\n{self.log.read_text()[-6000:]}")
            time.sleep(0.2)  # polls an outside process; nothing else tells

    def complete(self, model: str) -> httpx.Response:
        """A greedy completion of a fixed prompt."""
        body: dict[str, Any] = {"model": model, "prompt": "say item 7", "max_tokens": 12, "temperature": 0}
        return self.client.post("/v1/completions", json=body | {"ignore_eos": True, "skip_special_tokens": False})

    def text(self, model: str) -> str:
        answer = self.complete(model)
        assert answer.status_code == 200, f"{model}: {answer.text}\n{self.log.read_text()[-3000:]}"
        return str(answer.json()["choices"][0]["text"])

    def unload(self, model: str) -> None:
        answer = self.client.post("/v1/unload_lora_adapter", json={"lora_name": model})
        assert answer.status_code == 200, answer.text

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
