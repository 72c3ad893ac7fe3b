"""Mistakes of callers, made for real through `graft` and through the client library: each message says what happened and what to do."""

import json
import socket
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from adapter_store.errors import NotFound
from graftwork import __version__, sdk
from graftwork.client import Client
from graftwork.client.errors import (
    RemoteInvalid,
    RemoteNotFound,
    RemotePrecondition,
    RemoteUnauthenticated,
    RemoteUnavailable,
)
from tests.integration.mistakes.conftest import Command
from tests.integration.trainer.trainer_process import OPERATOR_KEY, TrainerProcess


def client(trainer: TrainerProcess, key: str = OPERATOR_KEY) -> Client:
    return Client(trainer.address, "127.0.0.1:1", key)


def test_service_down(tmp_path: Path) -> None:
    said = Command(tmp_path, "").fails("job", "list", "-t", "acme")
    assert "no trainer service is up" in said
    assert "start it with `graft up`" in said
    with socket.socket() as held:  # bound, not listening: nobody else can take the port
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        said = Command(tmp_path, address).fails("job", "list", "-t", "acme")
        assert f"no service answers at {address}: is it up? (`graft up`, `graft status`)" in said
        with Client(address, address, OPERATOR_KEY) as caller, pytest.raises(RemoteUnavailable, match="graft status"):
            list(caller.list_jobs("acme"))


@pytest.mark.parametrize(
    ("key", "does"),
    [
        ("gwop_" + "1" * 48, "operator.key"),
        ("gw_acme_" + "1" * 32, "ask the operator for a new one"),
        ("secret", "ask the operator for a new one"),
    ],
)
def test_wrong_key(key: str, does: str, command: Command, trainer: TrainerProcess) -> None:
    said = command.fails("job", "list", "-t", "acme", key=key)
    assert "key is not valid" in said
    assert does in said
    assert key not in said
    with client(trainer, key) as caller, pytest.raises(RemoteUnauthenticated, match="key is not valid"):
        list(caller.list_jobs("acme"))


def test_no_key(command: Command) -> None:
    assert "GRAFT_API_KEY" in command.fails("job", "list", "-t", "acme", key="")


def test_unknown_adapter(command: Command, trainer: TrainerProcess) -> None:
    said = command.fails("adapter", "show", "nope", "-t", "acme")
    assert "adapter nope does not exist" in said
    assert "`graft adapter list`" in said
    with client(trainer) as caller, pytest.raises(RemoteNotFound, match="graft adapter list"):
        list(caller.list_versions("tenants/acme/adapters/nope"))
    # What the serving service answers for a model that nobody has is this lookup's text.
    with pytest.raises(NotFound, match=r"no adapter nope.*`graft adapter list`"):
        trainer.store.targets("acme", "nope")


def test_wrong_base(command: Command, trainer: TrainerProcess, other_shapes: Path) -> None:
    """An adapter of a wider model: the door says which tensor does not fit, before anything is stored."""
    said = command.fails("adapter", "register", "foreign", str(other_shapes), "-t", "acme")
    assert "q_proj" in said
    assert "base" in said or "backbone" in said
    with pytest.raises(NotFound):
        trainer.store.targets("acme", "foreign")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ('{"instruction": "a", "response": "b"}\n{"instruction": "a"}\n', "line 2"),
        ('{"instruction": "a", "response": "b"}\nnot json\n', "line 2"),
        ('{"prompt": "a", "completion": "b"}\n', "line 1"),
    ],
)
def test_bad_data_row(rows: str, says: str, command: Command, trainer: TrainerProcess, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(rows)
    said = command.fails("train", str(data), "--adapter", "x", "-t", "acme")
    assert says in said
    with client(trainer) as caller, pytest.raises(RemoteInvalid, match=says):
        caller.upload_dataset("acme", data)
    with client(trainer) as caller:
        assert not list(caller.list_datasets("acme"))


def test_version_mismatch(tmp_path: Path) -> None:
    """A service that lacks the call, as one of an older version does."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        said = Command(tmp_path, f"127.0.0.1:{port}").fails("job", "list", "-t", "acme")
        assert (
            f"127.0.0.1:{port} does not know this call: it is of another version than this client ({__version__})"
            in said
        )
        assert "install the same version on both sides" in said
        with Client(f"127.0.0.1:{port}", "127.0.0.1:1", OPERATOR_KEY) as caller, pytest.raises(RemotePrecondition):
            list(caller.list_jobs("acme"))
    finally:
        server.stop(None)


def test_the_sdk_says_so_too(trainer: TrainerProcess, other_shapes: Path, tmp_path: Path) -> None:
    """`graftwork.Client`: each message says what happened, to which id, and what to do."""
    acme = {"trainer": trainer.address, "api_key": OPERATOR_KEY, "tenant": "acme", "home": tmp_path}
    mistakes: list[tuple[dict[str, object], Callable[[sdk.Client], object], type[Exception], str]] = [
        (acme, lambda c: c.generate("hi", model="a"), RemoteUnavailable, r"serving.*`graft up`.*GRAFT_SERVING"),
        (acme | {"api_key": None}, lambda c: c.whoami(), RemoteUnauthenticated, "no API key.*GRAFT_API_KEY"),
        (acme | {"api_key": "gw_acme_1"}, lambda c: c.whoami(), RemoteUnauthenticated, "not valid; ask the operator"),
        (acme | {"tenant": None}, lambda c: list(c.adapters.list()), sdk.TenantMissing, r"Client\(tenant='acme'\)"),
        (acme | {"tenant": "nobody"}, lambda c: list(c.adapters.list()), RemoteNotFound, "tenant nobody.*create it"),
        (acme, lambda c: c.adapters.get("nope"), RemoteNotFound, "adapter nope.*`graft adapter list`"),
        (acme, lambda c: c.adapters.promote("nope", "abc"), sdk.NoFullDigest, "'abc'.*64 hex digits.*versions"),
        (acme, lambda c: c.adapters.register("new", other_shapes), RemoteInvalid, "q_proj.*another backbone"),
        (acme, lambda c: c.adapters.register("new", tmp_path / "no"), sdk.InvalidFolder, "name the one that holds"),
        (acme, lambda c: c.jobs.create("ds-nope", "a"), RemoteNotFound, "ds-nope.*`graft dataset list`"),
        (acme, lambda c: c.datasets.upload([{"instruction": "a"}]), sdk.RowsRefused, "line 1: field 'response'"),
        (acme, lambda c: c.datasets.upload([{}, {"response": {1}}]), TypeError, "row 2 is no JSON"),
        (acme, lambda c: c.jobs.explain_recipe(9, recipe=sdk.Recipe(preset="x")), RemoteInvalid, "'x'.*compact"),
    ]
    for settings, act, error, says in mistakes:
        with sdk.Client(**settings, retries=0) as made, pytest.raises(error, match=says):  # type: ignore[arg-type]
            act(made)


@pytest.fixture
def other_shapes(tmp_path: Path) -> Path:
    """A PEFT folder for a model twice as wide."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path / "foreign"
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in range(2):
        for module in ("q_proj", "v_proj"):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{{}}.weight"
            tensors[name.format("A")] = rng.normal(size=(8, 64)).astype("float32")
            tensors[name.format("B")] = rng.normal(size=(64, 8)).astype("float32")
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj", "v_proj"]}))
    return folder
