"""The world and the service that the tests of serving share."""

import secrets
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from adapter_store import open_store, read_base
from graftwork.rpc.auth import OPERATOR_PREFIX
from tests.integration.serving.own_template import with_template
from tests.integration.serving.serving_world import TENANTS, Service, World, make_adapter, make_backbone


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("serving-world")
    backbone = make_backbone(root / "miniature")
    made = World(
        root,
        backbone,
        read_base(backbone),
        open_store(f"file://{root / 'store'}"),
        OPERATOR_PREFIX + secrets.token_hex(24),
    )
    for seed, (tenant, rank) in enumerate(TENANTS.items()):
        made.store.tenants.create(tenant)
        made.keys[tenant] = made.store.tenants.issue_key(tenant, "tests").secret
        made.folders[tenant] = make_adapter(backbone, root / "adapters" / tenant, rank=rank, seed=seed + 1)
        made.versions[tenant] = made.publish(tenant, "task", made.folders[tenant])
    return made


@pytest.fixture
def fresh(world: World, request: pytest.FixtureRequest) -> str:
    """An adapter of acme that no request has touched yet."""
    seed = zlib.crc32(request.node.nodeid.encode())
    name = f"a{seed}"
    world.folders[name] = make_adapter(world.backbone, world.root / "adapters" / name, rank=8, seed=seed)
    world.versions[name] = world.publish("acme", name, world.folders[name])
    return name


@pytest.fixture(scope="session")
def run_service(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Starts services that are certain to be gone after the tests."""
    with ExitStack() as stack:

        def start(home: Path | None = None, world: World = world, **settings: object) -> Service:
            made = Service(world, home or tmp_path_factory.mktemp("serving"), **settings)
            stack.callback(made.close)
            return made

        yield start


@pytest.fixture(scope="session")
def service(run_service: Callable[..., Service]) -> Service:
    """The service that most tests share: two slots for three tenants' adapters."""
    return run_service().ready()


@pytest.fixture
def client(service: Service, world: World) -> Iterator[openai.OpenAI]:
    """The unmodified client of OpenAI's API, with a tenant's key."""
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=world.keys["acme"], max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture(scope="session")
def own_template(world: World) -> str:
    """An adapter of acme's with the weights of its `task` and a template of its own."""
    world.publish(
        "acme", "own-template", with_template(world.folders["acme"], world.root / "adapters" / "own-template")
    )
    return "own-template"


@pytest.fixture(scope="session")
def reference(world: World) -> Callable[..., str]:
    """Greedy answers of transformers and PEFT: what serving must reproduce."""
    import torch
    from peft import PeftModel
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(world.backbone)
    models: dict[str, Any] = {}

    def answer(tenant: str | None, prompt: str, max_tokens: int) -> str:
        name = tenant or ""
        if name not in models:
            base = LlamaForCausalLM.from_pretrained(world.backbone).eval()
            models[name] = PeftModel.from_pretrained(base, world.folders[name]).eval() if name else base
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            out = models[name].generate(input_ids=ids, max_new_tokens=max_tokens, do_sample=False)
        return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))

    return answer
