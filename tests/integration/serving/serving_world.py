"""A miniature world for serving: a random llama, tenants with PEFT adapters that do something, and the real service.

A module of its own, not `conftest`: Python knows one module of that name, and which folder's it is goes by what pytest was given.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adapter_store import AdapterStore, BaseInfo, Provenance, VersionManifest
from graftwork.template import DEFAULT_CHAT_TEMPLATE
from graftwork.v1 import serving_pb2, serving_pb2_grpc

TENANTS = {"acme": 4, "globex": 8, "initech": 16}
"""Tenant to its adapter's rank; all differ, and from the engine's maximum, so that padding is exercised."""
READY_SECONDS = 300.0  # 30 on two free cores
LENGTH = 512


def wait_until(what: str, holds: Callable[[], Any], seconds: float) -> Any:
    """Polls a condition until it holds; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return value


def make_backbone(folder: Path) -> Path:
    """Writes a 0.2M-parameter llama with random weights and a tokenizer of one token per character."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    vocab = {token: number for number, token in enumerate([*special, "\n", *map(chr, range(32, 127))])}
    characters = Tokenizer(models.WordLevel(vocab, unk_token=" "))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<|pad|>", eos_token="<|end|>", additional_special_tokens=special[2:]
    )
    tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocab),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,  # 32 wide: vLLM has no narrower attention on a CPU
            num_key_value_heads=1,
            max_position_embeddings=LENGTH,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            tie_word_embeddings=True,
        )
    )
    with torch.no_grad():  # far from a tie between the best tokens, so that greedy answers are comparable
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.3 if "embed" in name else 0.15)
    model.save_pretrained(folder)
    return folder


def make_adapter(backbone: Path, folder: Path, *, rank: int, seed: int) -> Path:
    """Writes a PEFT adapter on q_proj and v_proj with random, non-zero B."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM.from_pretrained(backbone), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(DEFAULT_CHAT_TEMPLATE)
    return folder


@dataclass
class World:
    """A store with tenants and their published adapters."""

    root: Path
    backbone: Path
    base: BaseInfo
    store: AdapterStore
    operator_key: str
    keys: dict[str, str] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    versions: dict[str, VersionManifest] = field(default_factory=dict)

    @property
    def store_url(self) -> str:
        return f"file://{self.root / 'store'}"

    def publish(self, tenant: str, adapter: str, folder: Path, base: BaseInfo | None = None) -> VersionManifest:
        made = Provenance(made_by="registered by tests")
        manifest = self.store.versions.publish(tenant, adapter, folder, base=base or self.base, made=made)
        self.store.aliases.set(tenant, adapter, "prod", manifest.version, by="tests", reason="tests")
        return manifest


def _die_with_tests() -> None:
    """In the child, before exec: a killed test run must not leave services behind (1 is PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Service:
    """`python -m serving_service` as a process of its own."""

    module: ClassVar[str] = "serving_service"

    def __init__(self, world: World, home: Path, **settings: object) -> None:
        self.world, self.home = world, home
        home.mkdir(parents=True, exist_ok=True)
        self.address_file = home / "address"
        self.cache = home / "cache"
        self.http_address_file = home / "http.address"
        self.address_file.unlink(missing_ok=True)
        self.http_address_file.unlink(missing_ok=True)
        key_file = home / "operator.key"
        key_file.write_text(world.operator_key + "\n")
        # Answers are compared with other implementations', to the token: in bfloat16, which some processors would have, they differ.
        defaults: dict[str, object] = {"dtype": "float32"}
        defaults |= {"max_loras": 2, "max_lora_rank": 16, "kv_cache_gib": 0.1, "max_num_seqs": 16, "drain_seconds": 20}
        extra = {f"GRAFT_SERVING_{name.upper()}": str(value) for name, value in {**defaults, **settings}.items()}
        self._log = (home / "log").open("ab")
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            env={
                **os.environ,
                "GRAFT_STORE_URL": world.store_url,
                "GRAFT_BACKBONE": str(world.backbone),
                "GRAFT_OPERATOR_KEY_FILE": str(key_file),
                "GRAFT_SERVING_CACHE_DIR": str(self.cache),
                "GRAFT_SERVING_ADDRESS_FILE": str(self.address_file),
                "GRAFT_SERVING_HTTP_ADDRESS_FILE": str(self.http_address_file),
                **extra,
            },
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=_die_with_tests,
        )

    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")[-8000:]

    def bound(self) -> "Service":
        """Waits until the address is known; the engine may still be loading."""
        wait_until(f"bound\n{self.log()}", lambda: self.address_file.exists() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.log()
        self.channel = grpc.insecure_channel(self.address_file.read_text().strip())
        self.stub = serving_pb2_grpc.ServingServiceStub(self.channel)
        return self

    def get(self, path: str) -> httpx.Response:
        """Asks the HTTP port."""
        return httpx.get(f"http://{self.http_address_file.read_text().strip()}{path}", timeout=30)

    def readiness(self) -> dict[str, Any]:
        return self.get("/readyz").json()  # type: ignore[no-any-return]

    @property
    def url(self) -> str:
        """Of the OpenAI-compatible API."""
        return f"http://{self.http_address_file.read_text().strip()}"

    def health(self) -> int:
        request = health_pb2.HealthCheckRequest()
        return int(health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=10).status)

    def ready(self) -> "Service":
        self.bound()

        def serving() -> bool:
            assert self.process.poll() is None, self.log()
            return self.health() == health_pb2.HealthCheckResponse.SERVING

        wait_until("the engine is ready", serving, READY_SECONDS)
        self.start_seconds = time.monotonic() - self.began
        return self

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def as_tenant(self, tenant: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.world.keys[tenant]}"),)

    def as_operator(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.world.operator_key}"),)

    def start_generate(self, tenant: str, model: str, prompt: str, *, max_tokens: int = 32, **more: Any) -> Any:
        """Starts a greedy call on plain text and returns its stream."""
        sampling = serving_pb2.Sampling(**{"temperature": 0, "max_tokens": max_tokens, **more})
        request = serving_pb2.GenerateRequest(model=model, prompt=prompt, sampling=sampling)
        return self.stub.Generate(request, metadata=self.as_tenant(tenant), timeout=300)

    def generate(self, tenant: str, model: str, prompt: str, **more: Any) -> "Answer":
        return Answer.read(self.start_generate(tenant, model, prompt, **more))

    def residents(self) -> dict[str, serving_pb2.Residency]:
        answer = self.stub.ListResidency(serving_pb2.ListResidencyRequest(), metadata=self.as_operator(), timeout=30)
        return {f"{row.tenant}/{row.adapter}@{row.version}": row for row in answer.adapters}

    def evict(self, tenant: str, adapter: str, version: str) -> serving_pb2.EvictResponse:
        request = serving_pb2.EvictRequest(tenant=tenant, adapter=adapter, version=version)
        return self.stub.Evict(request, metadata=self.as_operator(), timeout=30)

    def signal(self, number: int) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        if hasattr(self, "channel"):
            self.channel.close()
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        self._log.close()


@dataclass(frozen=True)
class Answer:
    """A whole stream."""

    text: str
    started: serving_pb2.GenerateStarted
    finished: serving_pb2.GenerateFinished

    @classmethod
    def read(cls, stream: Any) -> "Answer":
        parts = list(stream)
        kinds = [part.WhichOneof("part") for part in parts]
        assert kinds[0] == "started", kinds
        assert kinds[-1] == "finished", kinds
        assert set(kinds[1:-1]) <= {"text"}, kinds
        return cls("".join(part.text for part in parts[1:-1]), parts[0].started, parts[-1].finished)
