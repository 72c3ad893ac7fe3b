"""Many tenants' adapters with known outputs, behind an S3 server whose connection can be cut."""

import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from minio import Minio
from safetensors.numpy import save_file

from adapter_store import open_store, read_base
from graftwork.rpc.auth import OPERATOR_PREFIX
from graftwork.template import DEFAULT_CHAT_TEMPLATE
from tests.contract.cuttable_proxy import CuttableProxy
from tests.contract.rgw import Rgw
from tests.integration.serving.serving_world import World, make_backbone

PROMPTS = ("a short text", "Name: Ada, Town: Paris", "1 2 3 4 5 6 7 8")
TOKENS = 12
RANK = 4
Tensors = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


@dataclass
class SoakWorld(World):
    """A world whose service reaches its store through a proxy.

    Attributes:
        proxied: the store's address for the service.
        known: version to prompt to the greedy answer of transformers.
        choices: (tenant, adapter) to the versions between which its alias moves; one where it never does.
    """

    proxied: str = ""
    known: dict[str, dict[str, str]] = field(default_factory=dict)
    choices: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    @property
    def store_url(self) -> str:
        return self.proxied


@contextmanager
def soak_world(
    root: Path, rgw: Rgw, *, tenants: int, adapters: int, moving: int
) -> Iterator[tuple[SoakWorld, CuttableProxy]]:
    """Publishes `adapters` of as many `tenants`; the first `moving` have two versions."""
    backbone = make_backbone(root / "miniature")
    Minio(
        rgw.endpoint.removeprefix("http://"), rgw.access_key, rgw.secret_key, secure=False, region="us-east-1"
    ).make_bucket("soak")
    url = f"s3://soak/graft?endpoint={rgw.endpoint}&region=us-east-1"
    with CuttableProxy(rgw.endpoint) as proxy:
        world = SoakWorld(
            root, backbone, read_base(backbone), open_store(url), OPERATOR_PREFIX + secrets.token_hex(24),
            proxied=url.replace(rgw.endpoint, proxy.endpoint),
        )  # fmt: skip
        for number in range(tenants):
            tenant = f"tenant-{number:02}"
            world.store.tenants.create(tenant)
            world.keys[tenant] = world.store.tenants.issue_key(tenant, "tests").secret
        made = []
        for number in range(adapters):
            owner = (f"tenant-{number % tenants:02}", f"task-{number // tenants}")
            made += [(owner, number * 2 + turn) for turn in range(2 if number < moving else 1)]
        answers = _Reference(backbone)

        def publish(item: tuple[tuple[str, str], int]) -> tuple[tuple[str, str], str, Tensors]:
            (tenant, adapter), seed = item
            tensors = _tensors(backbone, seed)
            version = world.publish(tenant, adapter, _adapter(root / "adapters" / str(seed), tensors)).version
            return (tenant, adapter), version, tensors

        with ThreadPoolExecutor(4) as pool:
            for owner, version, tensors in pool.map(publish, made):
                world.choices.setdefault(owner, []).append(version)
                world.known[version] = answers.of(tensors)
        for (tenant, adapter), versions in world.choices.items():
            world.store.aliases.set(tenant, adapter, "prod", versions[0], by="tests", reason="start")
        yield world, proxy


class _Reference:
    """Greedy answers by transformers, the adapter added to the weights."""

    def __init__(self, backbone: Path) -> None:
        import torch
        from transformers import AutoTokenizer, LlamaForCausalLM

        self._torch = torch
        self._model = LlamaForCausalLM.from_pretrained(backbone).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(backbone)
        self._plain = {name: weight.detach().clone() for name, weight in self._model.named_parameters()}

    def of(self, tensors: Tensors) -> dict[str, str]:
        torch = self._torch
        with torch.no_grad():
            for name, weight in self._model.named_parameters():
                module = name.removesuffix(".weight")
                a = tensors.get(f"base_model.model.{module}.lora_A.weight")
                if a is not None:
                    b = tensors[f"base_model.model.{module}.lora_B.weight"]
                    weight.copy_(self._plain[name] + 2.0 * torch.from_numpy(b) @ torch.from_numpy(a))
            return {prompt: self._answer(prompt) for prompt in PROMPTS}

    def _answer(self, prompt: str) -> str:
        ids = self._torch.tensor([self._tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        out = self._model.generate(input_ids=ids, max_new_tokens=TOKENS, do_sample=False)
        return str(self._tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def _tensors(backbone: Path, seed: int) -> Tensors:
    config = json.loads((backbone / "config.json").read_text())
    width = config["hidden_size"]
    half = width * config["num_key_value_heads"] // config["num_attention_heads"]
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, out in (("q_proj", width), ("v_proj", half)):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = rng.standard_normal((RANK, width), dtype=np.float32) * 0.15
            tensors[f"{name}.lora_B.weight"] = rng.standard_normal((out, RANK), dtype=np.float32) * 0.5
    return tensors


def _adapter(folder: Path, tensors: Tensors) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    peft = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
    peft |= {"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "tests"}
    (folder / "adapter_config.json").write_text(json.dumps(peft))
    (folder / "chat_template.jinja").write_text(DEFAULT_CHAT_TEMPLATE)
    return folder
