"""What serving's benchmarks run against: a backbone with random weights, adapters in a store, and the real service.

Owns their making and the service's process; the tokens' times are taken where a caller would see them.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adapter_store import AdapterStore, BaseInfo, Provenance, open_store, read_base
from benchmarks import llama_8b
from benchmarks.silent_tokens import silent
from graftwork.rpc.auth import OPERATOR_PREFIX
from graftwork.template import DEFAULT_CHAT_TEMPLATE
from graftwork.v1 import serving_pb2, serving_pb2_grpc

START_SECONDS = 600.0
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
MADE = Provenance(made_by="benchmark")


@dataclass(frozen=True, slots=True)
class Shape:
    """A llama; parameters without the embedding are about layers x (4 width^2 + 3 width x inner)."""

    layers: int
    width: int
    inner: int
    heads: int
    positions: int = 1024
    kv_heads: int | None = None
    head: int | None = None
    rank: int = 64
    """Of an adapter that is to be loaded."""


SHAPES = {
    "mini": Shape(6, 256, 704, 8),  # about 5M: the shipped backbone's
    "115m": Shape(12, 768, 2048, 12),
    "210m": Shape(16, 1024, 2816, 16),  # an adapter of rank 64 on all linear layers has 81 MB in float32
    "8b": Shape(32, 4096, 14336, 32, kv_heads=8, head=128, rank=8),  # of rank 8, 84 MB
}
LARGE = SHAPES["8b"]


def make_backbone(folder: Path, shape: Shape) -> Path:
    """Writes a llama with random weights and a tokenizer of one token per printable character."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    vocabulary = {token: number for number, token in enumerate([*special, "\n", *map(chr, range(32, 127))])}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<|pad|>", eos_token="<|end|>", additional_special_tokens=special[2:]
    )
    tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=shape.width, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads or shape.heads,
        head_dim=shape.head, max_position_embeddings=shape.positions, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        architectures=["LlamaForCausalLM"], dtype="bfloat16" if shape == LARGE else "float32",
    )  # fmt: skip
    if shape == LARGE:
        config.save_pretrained(folder)
        llama_8b.write_weights(folder)
    else:
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            model.lm_head.weight[silent(folder, len(vocabulary))] = 0
        model.save_pretrained(folder)
    return folder


def make_adapter(folder: Path, backbone: Path, *, rank: int, modules: tuple[str, ...], seed: int) -> Path:
    """Writes a PEFT adapter with random weights, in float32."""
    import numpy as np
    from safetensors.numpy import save_file

    config = json.loads((backbone / "config.json").read_text())
    width, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    queries, values = (head * config[f"num_{of}_heads"] for of in ("attention", "key_value"))
    shapes = {
        "q_proj": (width, queries),
        "k_proj": (width, values),
        "v_proj": (width, values),
        "o_proj": (queries, width),
    }
    shapes |= {"gate_proj": (width, inner), "up_proj": (width, inner), "down_proj": (inner, width)}
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module in modules:
            block = "self_attn" if module in ATTENTION else "mlp"
            name = f"base_model.model.model.layers.{layer}.{block}.{module}"
            fan_in, fan_out = shapes[module]
            tensors[f"{name}.lora_A.weight"] = rng.standard_normal((rank, fan_in), dtype=np.float32) * 0.02
            tensors[f"{name}.lora_B.weight"] = rng.standard_normal((fan_out, rank), dtype=np.float32) * 0.02
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    peft = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "bias": "none"}
    peft |= {"target_modules": list(modules), "base_model_name_or_path": "benchmark"}
    (folder / "adapter_config.json").write_text(json.dumps(peft))
    (folder / "chat_template.jinja").write_text(DEFAULT_CHAT_TEMPLATE)
    return folder


@dataclass
class Fleet:
    """A store with one tenant's adapters, and how to reach the service that runs on it."""

    work: Path
    backbone: Path
    store_url: str
    operator_key: str = field(default_factory=lambda: OPERATOR_PREFIX + secrets.token_hex(24))

    def __post_init__(self) -> None:
        self.store: AdapterStore = open_store(self.store_url)
        self.base: BaseInfo = read_base(self.backbone)
        self.keys: dict[str, str] = {}

    def tenant(self, name: str) -> None:
        self.store.tenants.create(name)
        self.keys[name] = self.store.tenants.issue_key(name, "benchmark").secret

    def publish(self, tenant: str, adapter: str, folder: Path) -> str:
        """Publishes a folder and points `prod` at it; returns the version."""
        made = self.store.versions.publish(tenant, adapter, folder, base=self.base, made=MADE)
        self.store.aliases.set(tenant, adapter, "prod", made.version, by="benchmark", reason="")
        return made.version


class Running:
    """A serving process; `serve` makes one."""

    def __init__(self, fleet: Fleet, home: Path, settings: dict[str, object]) -> None:
        home.mkdir(parents=True)
        self.fleet, self._home = fleet, home
        (home / "operator.key").write_text(fleet.operator_key + "\n")
        self._log = (home / "log").open("wb")
        names = {f"GRAFT_SERVING_{name.upper()}": str(value) for name, value in settings.items()}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serving_service"],
            env={
                **os.environ,
                "GRAFT_STORE_URL": fleet.store_url,
                "GRAFT_BACKBONE": str(fleet.backbone),
                "GRAFT_OPERATOR_KEY_FILE": str(home / "operator.key"),
                "GRAFT_SERVING_CACHE_DIR": str(home / "cache"),
                "GRAFT_SERVING_ADDRESS_FILE": str(home / "address"),
                **names,
            },
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def pid(self) -> int:
        """Of the process in front; the engines are its children."""
        return self._process.pid

    def wait(self) -> "Running":
        """Returns when the model answers; raises RuntimeError with the log's end when it does not."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if (address := self._home / "address").exists():
                self.address = address.read_text().strip()
                self.channel = grpc.insecure_channel(self.address)
                self.stub = serving_pb2_grpc.ServingServiceStub(self.channel)
                health = health_pb2_grpc.HealthStub(self.channel)
                if health.Check(health_pb2.HealthCheckRequest(), timeout=30).status == 1:
                    return self
                self.channel.close()
            time.sleep(0.1)
        raise RuntimeError(f"the service did not start\n{(self._home / 'log').read_text(errors='replace')[-4000:]}")

    def token_times(self, tenant: str, model: str, prompt: str, max_tokens: int) -> Iterator[float]:
        """Yields the time (`time.monotonic`) at which each piece of an answer arrived; the iterator may be closed early."""
        sampling = serving_pb2.Sampling(temperature=0, max_tokens=max_tokens)
        request = serving_pb2.GenerateRequest(model=model, prompt=prompt, sampling=sampling)
        metadata = (("authorization", f"Bearer {self.fleet.keys[tenant]}"),)
        stream: Any = self.stub.Generate(request, metadata=metadata)
        try:
            for part in stream:
                if part.WhichOneof("part") == "text":
                    yield time.monotonic()
        finally:
            stream.cancel()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()


@contextmanager
def serve(fleet: Fleet, home: Path, **settings: object) -> Iterator[Running]:
    """Runs the service for the block, its model loaded."""
    running = Running(fleet, home, settings)
    try:
        yield running.wait()
    finally:
        running.stop()
