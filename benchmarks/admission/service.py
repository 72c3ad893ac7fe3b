"""A store with tenants and random adapters of the default backbone, and serving services on it as processes of their own."""

import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from safetensors.numpy import save_file

from adapter_store import Provenance, open_store, read_base
from graftwork.backbone import default_path
from graftwork.rpc.auth import OPERATOR_PREFIX

_RANK = 8
_READY_SECONDS = 600.0


@dataclass(slots=True)
class World:
    """A store below `root`, filled by `tenant`."""

    root: Path
    keys: dict[str, str] = field(default_factory=dict)
    adapters: list[tuple[str, str]] = field(default_factory=list)
    """Tenant and adapter of each."""

    @property
    def store_url(self) -> str:
        return f"file://{self.root / 'store'}"

    def tenant(self, name: str, adapters: int) -> None:
        """Makes a tenant with adapters `a0`, `a1`, ... that do something."""
        store, base = open_store(self.store_url), read_base(default_path())
        store.tenants.create(name)
        self.keys[name] = store.tenants.issue_key(name, "benchmark").secret
        for number in range(adapters):
            folder = _adapter(self.root / "made" / name / str(number), seed=len(self.adapters))
            made = Provenance(made_by="benchmark")
            version = store.versions.publish(name, f"a{number}", folder, base=base, made=made).version
            store.aliases.set(name, f"a{number}", "prod", version, by="benchmark", reason="")
            self.adapters.append((name, f"a{number}"))


def _adapter(folder: Path, *, seed: int) -> Path:
    """Writes a LoRA on q_proj and v_proj; without torch, so that the benchmark's own process stays light."""
    config = json.loads((default_path() / "config.json").read_text())
    width, rng = config["hidden_size"], np.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for part, heads in (("q", config["num_attention_heads"]), ("v", config["num_key_value_heads"])):
            name = f"base_model.model.model.layers.{layer}.self_attn.{part}_proj"
            out = heads * config["head_dim"]
            tensors[f"{name}.lora_A.weight"] = rng.normal(0, 0.05, (_RANK, width)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = rng.normal(0, 0.05, (out, _RANK)).astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    peft = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": _RANK, "lora_alpha": 2 * _RANK, "bias": "none"}
    peft |= {"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "graft-mini"}
    (folder / "adapter_config.json").write_text(json.dumps(peft))
    (folder / "chat_template.jinja").write_bytes((default_path() / "chat_template.jinja").read_bytes())
    return folder


class Service:
    """`python -m serving_service` until the block ends.

    Args:
        world: its store.
        name: of its folder.
        settings: fields of ServingSettings.
    """

    def __init__(self, world: World, name: str, **settings: object) -> None:
        home = world.root / name
        home.mkdir()
        self._address_file, key_file = home / "address", home / "operator.key"
        key_file.write_text(OPERATOR_PREFIX + secrets.token_hex(24) + "\n")
        common: dict[str, object] = {
            "cache_dir": home / "cache", "address_file": self._address_file, "max_lora_rank": _RANK, "kv_cache_gib": 0.5,
        }  # fmt: skip
        environment = {f"GRAFT_SERVING_{key.upper()}": str(value) for key, value in (common | settings).items()}
        self._log_file = home / "log"
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving_service"],
                env=os.environ
                | {"GRAFT_STORE_URL": world.store_url, "GRAFT_OPERATOR_KEY_FILE": str(key_file)}
                | environment,
                stdout=log,
                stderr=log,
            )
        self.address = ""

    def __enter__(self) -> Self:
        """Waits until it serves."""
        deadline = time.monotonic() + _READY_SECONDS
        while not self._serving():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                sys.exit(f"the service did not start:\n{self._log_file.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(60)

    def _serving(self) -> bool:
        if not self._address_file.exists():
            return False
        self.address = self._address_file.read_text().strip()
        with grpc.insecure_channel(self.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
