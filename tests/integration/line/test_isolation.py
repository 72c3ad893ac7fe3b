"""A second tenant's key against every call of all three services.

The calls come from the protocol's descriptors: a new one fails here until it has its row.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message
from safetensors.numpy import save_file

from adapter_store import open_store, read_base
from graftwork.client import Client
from graftwork.v1 import common_pb2, registry_pb2, serving_pb2, trainer_pb2
from tests.integration.line.conftest import Graft

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Names:
    """What a caller may try to name."""

    tenant: str
    adapter: str
    version: str
    dataset: str
    job: str
    key: str

    def __getattr__(self, name: str) -> str:
        """`parent`, `adapter_name` and so on: resource names."""
        forms = {
            "parent": "tenants/{tenant}",
            "adapter_name": "tenants/{tenant}/adapters/{adapter}",
            "version_name": "tenants/{tenant}/adapters/{adapter}/versions/{version}",
            "alias_name": "tenants/{tenant}/adapters/{adapter}/aliases/prod",
            "dataset_name": "tenants/{tenant}/datasets/{dataset}",
            "job_name": "tenants/{tenant}/jobs/{job}",
        }
        if name not in forms:
            raise AttributeError(name)
        return forms[name].format(**{field: getattr(self, field) for field in self.__dataclass_fields__})


Make = Callable[[Names], Any]
T, R, S = trainer_pb2, registry_pb2, serving_pb2
OPEN = "answers any key, and shows nothing of any tenant"
OPERATOR = "an operator's call"


def named(kind: type[Message], field: str, source: str, **more: object) -> Make:
    return lambda names: kind(**{field: getattr(names, source)}, **more)


def pair(kind: type[Message], one: str, other: str) -> Make:
    return lambda names: kind(name=getattr(names, one), other=getattr(names, other))


CALLS: dict[str, list[Make] | str] = {
    "TrainerService.UploadDataset": [
        lambda names: [
            T.UploadDatasetRequest(
                header=T.UploadDatasetHeader(parent=names.parent, format=common_pb2.DATASET_FORMAT_JSONL)
            ),
            T.UploadDatasetRequest(chunk=b'{"instruction": "a", "response": "b"}\n'),
        ]
    ],
    "TrainerService.CreateJob": [
        lambda names: T.CreateJobRequest(parent=names.parent, dataset=names.dataset_name, adapter_id="stolen"),
        lambda names: T.CreateJobRequest(parent="tenants/blue", dataset=names.dataset_name, adapter_id="stolen"),
    ],
    "TrainerService.GetJob": [named(T.GetJobRequest, "name", "job_name")],
    "TrainerService.ListJobs": [named(T.ListJobsRequest, "parent", "parent")],
    "TrainerService.CancelJob": [named(T.CancelJobRequest, "name", "job_name")],
    "TrainerService.WatchJob": [named(T.WatchJobRequest, "name", "job_name")],
    "TrainerService.GetTrainerInfo": OPEN,
    "RegistryService.CreateTenant": OPERATOR,
    "RegistryService.GetTenant": [named(R.GetTenantRequest, "name", "parent")],
    "RegistryService.ListTenants": OPERATOR,
    "RegistryService.UpdateTenant": OPERATOR,
    "RegistryService.CreateApiKey": [named(R.CreateApiKeyRequest, "parent", "parent")],
    "RegistryService.ListApiKeys": [named(R.ListApiKeysRequest, "parent", "parent")],
    "RegistryService.RevokeApiKey": [lambda names: R.RevokeApiKeyRequest(parent=names.parent, id=names.key)],
    "RegistryService.GetAdapter": [named(R.GetAdapterRequest, "name", "adapter_name")],
    "RegistryService.ListAdapters": [named(R.ListAdaptersRequest, "parent", "parent")],
    "RegistryService.GetVersion": [
        named(R.GetVersionRequest, "name", "version_name"),
        named(R.GetVersionRequest, "name", "alias_name"),
    ],
    "RegistryService.ListVersions": [named(R.ListVersionsRequest, "parent", "adapter_name")],
    "RegistryService.RegisterAdapter": [
        lambda names: [
            R.RegisterAdapterRequest(header=R.RegisterAdapterHeader(parent=names.parent, adapter_id=names.adapter)),
        ]
    ],
    "RegistryService.DownloadVersion": [
        named(R.DownloadVersionRequest, "name", "version_name"),
        named(R.DownloadVersionRequest, "name", "alias_name"),
    ],
    "RegistryService.VerifyVersion": [
        named(R.VerifyVersionRequest, "name", "version_name"),
        named(R.VerifyVersionRequest, "name", "alias_name"),
    ],
    "RegistryService.DiffVersions": [
        pair(R.DiffVersionsRequest, "version_name", "version_name"),
        pair(R.DiffVersionsRequest, "alias_name", "alias_name"),
        lambda names: R.DiffVersionsRequest(name="tenants/blue/adapters/own/aliases/prod", other=names.version_name),
    ],
    "RegistryService.SetAlias": [
        lambda names: R.SetAliasRequest(name=names.alias_name, version=names.version),
    ],
    "RegistryService.ListAliasHistory": [named(R.ListAliasHistoryRequest, "name", "alias_name")],
    "RegistryService.RollbackAlias": [named(R.RollbackAliasRequest, "name", "alias_name")],
    "RegistryService.DeleteAlias": [named(R.DeleteAliasRequest, "name", "alias_name")],
    "RegistryService.DeleteVersion": [named(R.DeleteVersionRequest, "name", "version_name")],
    "RegistryService.DeleteAdapter": [named(R.DeleteAdapterRequest, "name", "adapter_name")],
    "RegistryService.GetDataset": [named(R.GetDatasetRequest, "name", "dataset_name")],
    "RegistryService.ListDatasets": [named(R.ListDatasetsRequest, "parent", "parent")],
    "RegistryService.DeleteDataset": [named(R.DeleteDatasetRequest, "name", "dataset_name")],
    "ServingService.Generate": [
        lambda names: S.GenerateRequest(parent=names.parent, model=names.adapter, prompt="x"),
        lambda names: S.GenerateRequest(parent=names.parent, model=f"{names.adapter}@{names.version}", prompt="x"),
        # Without a parent the key says whose adapter it is: the caller's own, which does not exist.
        lambda names: S.GenerateRequest(model=names.adapter, prompt="x"),
        lambda names: S.GenerateRequest(model=f"{names.adapter}@{names.version}", prompt="x"),
    ],
    "ServingService.GetServingInfo": OPEN,
    "ServingService.ListResidency": OPERATOR,
    "ServingService.Evict": OPERATOR,
}
METHODS = {
    f"{service.name}.{method.name}": method
    for file in (trainer_pb2, registry_pb2, serving_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
# The registry is mounted on both servers.
PLACES = [
    (place, method)
    for method in METHODS
    for place in ("trainer", "serving")
    if place in method.lower() or method.startswith("Registry")
]


class World:
    """Red owns one of everything; blue has a key and one adapter of its own."""

    def __init__(self, up: Graft, backbone: Path, folder: Path) -> None:
        self.up = up
        self.keys = {tenant: up.json("tenant", "create", tenant)["api_key"] for tenant in ("red", "blue")}
        adapter = _adapter(folder, backbone)
        versions = {}
        for tenant, name in (("red", "word"), ("blue", "own")):
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


def _adapter(folder: Path, backbone: Path) -> Path:
    """A good adapter for a backbone, without torch."""
    random, tensors = np.random.default_rng(5), {}
    for module, shapes in read_base(backbone).modules.items():
        if module.endswith("q_proj") and shapes[0]:
            out, inner = shapes[0]
            name = f"base_model.model.model.{module}"
            tensors[f"{name}.lora_A.weight"] = random.normal(size=(4, inner)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = random.normal(size=(out, 4)).astype(np.float32)
    made = folder / "adapter"
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
    missing = Names("nobody", "nothing", "0" * 64, "ds-" + "0" * 40, "0" * 26, "0" * 16)
    for make in row:
        status, text = world.call(place, method, make(world.names), "blue")
        assert status is grpc.StatusCode.NOT_FOUND, text
        absent, shape = world.call(place, method, make(missing), "blue")
        assert absent is grpc.StatusCode.NOT_FOUND
        for field in Names.__dataclass_fields__:
            text = text.replace(getattr(world.names, field), getattr(missing, field))
        assert text == shape


READS = [name for name in METHODS if name.split(".")[1].startswith(("Get", "List", "Download", "Verify", "Diff"))]


@pytest.mark.parametrize("method", [name for name in READS if not isinstance(CALLS[name], str)])
def test_the_same_calls_with_the_owners_key_find_it(world: World, method: str) -> None:
    """Without this, a table of misspelt names would pass above."""
    for make in CALLS[method]:
        request = make(world.names)
        if "tenants/blue" in str(request):
            continue
        status, text = world.call("trainer", method, request, "red")
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
