"""A second tenant's key against every call of all three services.

The calls come from the protocol's descriptors: a new one fails here until it has its row in `isolation_calls`.
"""

import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from safetensors.numpy import save_file

from adapter_store import open_store, read_base
from graftwork.client import Client
from graftwork.v1 import registry_pb2
from tests.integration.line.conftest import Graft
from tests.integration.line.isolation_calls import CALLS, METHODS, OPERATOR, PLACES, Names

pytestmark = pytest.mark.slow
NOBODYS = Names("nobody", "nothing", "0" * 64, "ds-" + "0" * 40, "0" * 26, "0" * 16)
"""Of a tenant that does not exist."""
OWN = replace(NOBODYS, tenant="blue")
"""Of the caller itself, none of which exists."""


class World:
    """Red owns one of everything; blue has a key and one adapter of its own."""

    def __init__(self, up: Graft, backbone: Path, folder: Path) -> None:
        self.up = up
        self.keys = {tenant: up.json("tenant", "create", tenant)["api_key"] for tenant in ("red", "blue")}
        versions = {}
        for seed, (tenant, name) in enumerate((("red", "word"), ("blue", "own"))):
            adapter = _adapter(folder, backbone, seed)  # unlike each other: the same content would be one digest
            made = up.json("adapter", "register", name, str(adapter), "-t", tenant, "--alias", "prod")
            versions[tenant] = made["version"]["name"].split("/")[-1]
        rows = folder / "rows.jsonl"
        rows.write_text("".join(json.dumps({"instruction": "a", "response": f"b{n}"}) + "\n" for n in range(40)))
        job = up.json("train", str(rows), "-t", "red", "-a", "trained", "--no-wait")
        up.run("job", "cancel", job["name"])
        self.names = Names(
            tenant="red",
            adapter="word",
            version=versions["red"],
            dataset=job["dataset"].split("/")[-1],
            job=job["name"].split("/")[-1],
            key=up.json("tenant", "keys", "red")[0]["id"],
        )
        self.clients = {place: self._client(place) for place in ("trainer", "serving")}

    def _client(self, place: str) -> Client:
        """The registry's calls of this client go to the service `place`."""
        return Client((self.up.home / f"run/{place}.address").read_text().strip(), "127.0.0.1:1")

    def call(self, place: str, method: str, request: Any, tenant: str) -> tuple[grpc.StatusCode, str]:
        """Makes one call with a tenant's key; returns the status and its text."""
        found = METHODS[method]
        answer = message_factory.GetMessageClass(found.output_type).FromString
        path = f"/{found.containing_service.full_name}/{found.name}"
        channel = self.clients[place].trainer.channel
        streams = (found.client_streaming, found.server_streaming)
        make = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
            (True, True): channel.stream_stream,
        }[streams]
        metadata = (("authorization", f"Bearer {self.keys[tenant]}"),)
        kind = message_factory.GetMessageClass(found.input_type)
        sent = iter(request) if found.client_streaming else request
        try:
            result = make(path, kind.SerializeToString, answer)(sent, metadata=metadata, timeout=60)
            if found.server_streaming:
                next(iter(result))
        except grpc.RpcError as error:
            return error.code(), error.details()
        return grpc.StatusCode.OK, ""

    def state(self) -> object:
        """All that red has."""
        return [
            self.up.json(*command)
            for command in (
                ("tenant", "keys", "red"),
                ("tenant", "show", "red"),
                ("adapter", "show", "word", "-t", "red"),
                ("adapter", "history", "word", "-t", "red"),
                ("dataset", "list", "-t", "red"),
            )
        ]


def _adapter(folder: Path, backbone: Path, seed: int) -> Path:
    """A good adapter for a backbone, without torch."""
    random, tensors = np.random.default_rng(seed), {}
    for module, shapes in read_base(backbone).modules.items():
        if module.endswith("q_proj") and shapes[0]:
            out, inner = shapes[0]
            name = f"base_model.model.model.{module}"
            tensors[f"{name}.lora_A.weight"] = random.normal(size=(4, inner)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = random.normal(size=(out, 4)).astype(np.float32)
    made = folder / f"adapter-{seed}"
    made.mkdir()
    save_file(tensors, made / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (made / "adapter_config.json").write_text(json.dumps(settings))
    return made


@pytest.fixture(scope="module")
def world(up: Graft, other_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterable[World]:
    made = World(up, other_backbone, tmp_path_factory.mktemp("isolation"))
    before = made.state()
    yield made
    assert made.state() == before, "nothing of red was changed by all that blue tried"


def test_every_call_has_its_row() -> None:
    assert set(CALLS) == set(METHODS)


@pytest.mark.parametrize(("place", "method"), PLACES, ids=[f"{place}-{method}" for place, method in PLACES])
def test_another_tenants_things_answer_like_things_that_do_not_exist(world: World, place: str, method: str) -> None:
    row = CALLS[method]
    if isinstance(row, str):
        request = message_factory.GetMessageClass(METHODS[method].input_type)()
        status, text = world.call(place, method, request, "blue")
        assert status is (grpc.StatusCode.PERMISSION_DENIED if row == OPERATOR else grpc.StatusCode.OK), text
        return
    for ask in row:
        for missing in (NOBODYS, OWN) if ask.below else (NOBODYS,):
            status, text = world.call(place, method, ask.make(world.names), "blue")
            assert status is grpc.StatusCode.NOT_FOUND, text
            absent, shape = world.call(place, method, ask.make(missing), "blue")
            assert absent is grpc.StatusCode.NOT_FOUND
            for field in Names.__dataclass_fields__:
                text = text.replace(getattr(world.names, field), getattr(missing, field))
            assert text == shape


ROUNDS = 60
"""Of each call at the most, interleaved."""
FIRST_LOOK = 12
"""Rounds before the times are first compared, and between two comparisons."""
UNLIKE = 0.8
"""Above this share of rounds in which one of two calls takes longer, they are told apart by their time. Two that do the same
work are at 0.5 with a standard deviation of 0.053 after all rounds: more than five of them away."""
ALIKE = 0.65
"""Up to this share they are alike for certain, however few the rounds: for calls that are told apart by a look into the store,
the share is 0.9 and more, and its standard deviation after the first rounds is below 0.06."""


def share_longer(one: Sequence[float], other: Sequence[float]) -> float:
    """How often a call of the one kind takes longer than one of the other: Mann and Whitney's U as a share, 0.5 for none."""
    return float(np.mean([[a > b for b in other] for a in one]))


def are_alike(taken: Sequence[Sequence[float]]) -> bool:
    """Tells whether the first takes the time of each other, so plainly that more rounds would not change it."""
    return all(1 - ALIKE <= share_longer(taken[0], other) <= ALIKE for other in taken[1:])


def seconds(world: World, place: str, asked: Sequence[tuple[str, Any]]) -> list[list[float]]:
    """Makes some calls as blue in random order, so that what else the machine does meets all alike, until they are alike."""
    taken: list[list[float]] = [[] for _ in asked]
    for done in range(1, ROUNDS + 1):
        for number in random.sample(range(len(asked)), len(asked)):
            began = time.perf_counter()
            world.call(place, *asked[number], "blue")
            taken[number].append(time.perf_counter() - began)
        if done % FIRST_LOOK == 0 and are_alike(taken):
            break
    return taken


@pytest.mark.parametrize("method", [name for name, row in CALLS.items() if not isinstance(row, str)])
def test_another_tenants_things_take_the_time_of_things_that_do_not_exist(world: World, method: str) -> None:
    place = "serving" if method.startswith("Serving") else "trainer"
    for ask in CALLS[method]:
        kinds = [world.names, NOBODYS, *([OWN] if ask.below else [])]
        foreign, *missing = seconds(world, place, [(method, ask.make(names)) for names in kinds])
        for other in missing:
            assert 1 - UNLIKE < share_longer(foreign, other) < UNLIKE


def test_the_clock_above_sees_a_look_into_the_store(world: World) -> None:
    """Without this, a clock too coarse for the difference would pass: a refusal before the store is asked, and a missing name.

    What else the machine does can hide it from one look; from one that is too coarse it is hidden in every one.
    """
    at_once = ("RegistryService.ListAdapters", registry_pb2.ListAdaptersRequest(parent="tenants/red"))
    looked_up = ("RegistryService.GetVersion", registry_pb2.GetVersionRequest(name=OWN.version_name))
    looks = (seconds(world, "trainer", [at_once, looked_up]) for _ in range(3))
    assert any(share_longer(missed, refused) > UNLIKE for refused, missed in looks)


READS = [name for name in METHODS if name.split(".")[1].startswith(("Get", "List", "Download", "Verify", "Diff"))]


@pytest.mark.parametrize("method", [name for name in READS if not isinstance(CALLS[name], str)])
def test_the_same_calls_with_the_owners_key_find_it(world: World, method: str) -> None:
    """Without this, a table of misspelt names would pass above."""
    for ask in CALLS[method]:
        request = ask.make(world.names)
        if "tenants/blue" in str(request):
            continue
        status, text = world.call("serving" if method.startswith("Serving") else "trainer", method, request, "red")
        assert status is grpc.StatusCode.OK, text


def test_what_the_test_names_is_there(world: World) -> None:
    """As the store itself says, past all services."""
    store = open_store(f"file://{world.up.home}/store")
    names = world.names
    assert store.versions.get(names.tenant, names.adapter, names.version)
    assert store.datasets.get(names.tenant, names.dataset)
    assert replace(names, tenant="blue").version_name.startswith("tenants/blue/")


def test_a_disabled_tenants_key_is_refused_by_both_services_within_five_seconds(up: Graft, world: World) -> None:
    world.keys["green"] = up.json("tenant", "create", "green")["api_key"]
    request = registry_pb2.ListAdaptersRequest(parent="tenants/green")
    for place in world.clients:  # each has the key's record now, and could go on trusting it
        assert world.call(place, "RegistryService.ListAdapters", request, "green")[0] is grpc.StatusCode.OK
    up.json("tenant", "disable", "green")
    deadline = time.monotonic() + 5
    for place in world.clients:
        while (status := world.call(place, "RegistryService.ListAdapters", request, "green")[0]) is grpc.StatusCode.OK:
            assert time.monotonic() < deadline
            time.sleep(0.05)  # polls another process
        assert status is grpc.StatusCode.PERMISSION_DENIED
