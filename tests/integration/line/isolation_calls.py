"""Every call of all three services, as somebody makes it who names another tenant's things. A table; `test_isolation` makes
the calls."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from graftwork.v1 import common_pb2, registry_pb2, serving_pb2, trainer_pb2


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


@dataclass(frozen=True)
class Ask:
    """A request to make with somebody's names.

    Attributes:
        make: the request, or the messages of a stream.
        below: it names something below a tenant, so that the caller's own tenant may lack it; else only the tenant itself can
            be foreign or missing.
    """

    make: Make
    below: bool = True


T, R, S = trainer_pb2, registry_pb2, serving_pb2
OPEN = "answers any key, and shows nothing of any tenant but the caller's own name"
OPERATOR = "an operator's call"


def named(kind: type[Message], field: str, source: str, **more: object) -> Ask:
    return Ask(lambda names: kind(**{field: getattr(names, source)}, **more), below=source != "parent")


def pair(kind: type[Message], one: str, other: str) -> Ask:
    return Ask(lambda names: kind(name=getattr(names, one), other=getattr(names, other)))


CALLS: dict[str, list[Ask] | str] = {
    "TrainerService.UploadDataset": [
        Ask(
            lambda names: [
                T.UploadDatasetRequest(
                    header=T.UploadDatasetHeader(parent=names.parent, format=common_pb2.DATASET_FORMAT_JSONL)
                ),
                T.UploadDatasetRequest(chunk=b'{"instruction": "a", "response": "b"}\n'),
            ],
            below=False,
        )
    ],
    "TrainerService.CreateJob": [
        Ask(
            lambda names: T.CreateJobRequest(parent=names.parent, dataset=names.dataset_name, adapter_id="stolen"),
            below=False,
        ),
        Ask(lambda names: T.CreateJobRequest(parent="tenants/blue", dataset=names.dataset_name, adapter_id="stolen")),
    ],
    "TrainerService.GetJob": [named(T.GetJobRequest, "name", "job_name")],
    "TrainerService.ListJobs": [named(T.ListJobsRequest, "parent", "parent")],
    "TrainerService.CancelJob": [named(T.CancelJobRequest, "name", "job_name")],
    "TrainerService.ResumeJob": [named(T.ResumeJobRequest, "name", "job_name")],
    "TrainerService.ReadJobLog": OPERATOR,
    "TrainerService.MergeVersion": [
        named(T.MergeVersionRequest, "name", "version_name"),
        named(T.MergeVersionRequest, "name", "alias_name"),
    ],
    "TrainerService.ValidateDataset": [
        Ask(
            lambda names: [
                T.ValidateDatasetRequest(
                    header=T.ValidateDatasetHeader(parent=names.parent, dataset=names.dataset_name)
                )
            ],
            below=False,
        ),
        Ask(
            lambda names: [
                T.ValidateDatasetRequest(
                    header=T.ValidateDatasetHeader(parent="tenants/blue", dataset=names.dataset_name)
                )
            ]
        ),
    ],
    "TrainerService.ExplainRecipe": [
        Ask(lambda names: T.ExplainRecipeRequest(parent=names.parent, rows=100), below=False)
    ],
    "TrainerService.EstimateJob": [
        Ask(lambda names: T.EstimateJobRequest(parent=names.parent, dataset=names.dataset_name), below=False),
        Ask(lambda names: T.EstimateJobRequest(parent="tenants/blue", dataset=names.dataset_name)),
    ],
    "TrainerService.WatchJob": [named(T.WatchJobRequest, "name", "job_name")],
    "TrainerService.GetTrainerInfo": OPEN,
    "RegistryService.GetCaller": OPEN,
    "RegistryService.CreateTenant": OPERATOR,
    "RegistryService.GetTenant": [named(R.GetTenantRequest, "name", "parent")],
    "RegistryService.ListTenants": OPERATOR,
    "RegistryService.UpdateTenant": OPERATOR,
    "RegistryService.CreateApiKey": [named(R.CreateApiKeyRequest, "parent", "parent")],
    "RegistryService.ListApiKeys": [named(R.ListApiKeysRequest, "parent", "parent")],
    "RegistryService.RevokeApiKey": [Ask(lambda names: R.RevokeApiKeyRequest(parent=names.parent, id=names.key))],
    "RegistryService.GetAdapter": [named(R.GetAdapterRequest, "name", "adapter_name")],
    "RegistryService.ListAdapters": [named(R.ListAdaptersRequest, "parent", "parent")],
    "RegistryService.GetVersion": [
        named(R.GetVersionRequest, "name", "version_name"),
        named(R.GetVersionRequest, "name", "alias_name"),
    ],
    "RegistryService.ListVersions": [named(R.ListVersionsRequest, "parent", "adapter_name")],
    "RegistryService.RegisterAdapter": [
        Ask(
            lambda names: [
                R.RegisterAdapterRequest(header=R.RegisterAdapterHeader(parent=names.parent, adapter_id=names.adapter)),
            ],
            below=False,
        )
    ],
    "RegistryService.DownloadVersion": [
        named(R.DownloadVersionRequest, "name", "version_name"),
        named(R.DownloadVersionRequest, "name", "alias_name"),
    ],
    "RegistryService.VerifyAuditLog": OPERATOR,
    "RegistryService.VerifyVersion": [
        named(R.VerifyVersionRequest, "name", "version_name"),
        named(R.VerifyVersionRequest, "name", "alias_name"),
    ],
    "RegistryService.DiffVersions": [
        pair(R.DiffVersionsRequest, "version_name", "version_name"),
        pair(R.DiffVersionsRequest, "alias_name", "alias_name"),
        Ask(
            lambda names: R.DiffVersionsRequest(name="tenants/blue/adapters/own/aliases/prod", other=names.version_name)
        ),
    ],
    "RegistryService.SignVersion": [
        named(R.SignVersionRequest, "name", "version_name", public_key=b"k" * 32, signature=b"s" * 64),
        named(R.SignVersionRequest, "name", "alias_name", public_key=b"k" * 32, signature=b"s" * 64),
    ],
    "RegistryService.SetAlias": [
        Ask(lambda names: R.SetAliasRequest(name=names.alias_name, version=names.version)),
        Ask(lambda names: R.SetAliasRequest(name=names.alias_name, version=names.version, expected_number=3)),
        Ask(lambda names: R.SetAliasRequest(name="tenants/blue/adapters/own/aliases/prod", version=names.version)),
    ],
    "RegistryService.ListAliasHistory": [named(R.ListAliasHistoryRequest, "name", "alias_name")],
    "RegistryService.RollbackAlias": [named(R.RollbackAliasRequest, "name", "alias_name")],
    "RegistryService.SetAliasPolicy": [
        named(R.SetAliasPolicyRequest, "name", "alias_name", route="merged"),
        named(R.SetAliasPolicyRequest, "name", "alias_name", route="merged", expected_number=3),
    ],
    "RegistryService.DeleteAlias": [named(R.DeleteAliasRequest, "name", "alias_name")],
    "RegistryService.DeleteVersion": [named(R.DeleteVersionRequest, "name", "version_name")],
    "RegistryService.DeleteAdapter": [named(R.DeleteAdapterRequest, "name", "adapter_name")],
    "RegistryService.GetDataset": [named(R.GetDatasetRequest, "name", "dataset_name")],
    "RegistryService.ListDatasets": [named(R.ListDatasetsRequest, "parent", "parent")],
    "RegistryService.DeleteDataset": [named(R.DeleteDatasetRequest, "name", "dataset_name")],
    "RegistryService.ListAuditEntries": [named(R.ListAuditEntriesRequest, "parent", "parent")],
    "ServingService.Generate": [
        Ask(lambda names: S.GenerateRequest(parent=names.parent, model=names.adapter, prompt="x")),
        Ask(lambda names: S.GenerateRequest(parent=names.parent, model=f"{names.adapter}@{names.version}", prompt="x")),
        # Without a parent the key says whose adapter it is: the caller's own, which does not exist.
        Ask(lambda names: S.GenerateRequest(model=names.adapter, prompt="x")),
        Ask(lambda names: S.GenerateRequest(model=f"{names.adapter}@{names.version}", prompt="x")),
    ],
    "ServingService.GetServingInfo": OPEN,
    "ServingService.GetTraffic": [named(S.GetTrafficRequest, "parent", "parent")],
    "ServingService.ListResidency": OPERATOR,
    "ServingService.Prefetch": OPERATOR,
    "ServingService.Pin": OPERATOR,
    "ServingService.Evict": OPERATOR,
    "ServingService.Promote": OPERATOR,
    "ServingService.Demote": OPERATOR,
    "ServingService.Drain": OPERATOR,
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
