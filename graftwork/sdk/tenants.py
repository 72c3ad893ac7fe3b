"""Tenants, their limits and their API keys: results, and the calls that give them."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime

from graftwork.sdk.calls import Api, Call, Listing
from graftwork.sdk.names import last_id, tenant_name
from graftwork.sdk.reading import read_time
from graftwork.v1 import registry_pb2 as pb


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may use; 0 is unlimited.

    Attributes:
        requests_per_minute: generation requests.
        tokens_per_minute: of prompts and answers together.
        concurrency: generation requests at once.
        queue_length: generation requests that wait.
        max_running_jobs, max_queued_jobs: training jobs.
    """

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrency: int = 0
    queue_length: int = 0
    max_running_jobs: int = 0
    max_queued_jobs: int = 0


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant.

    Attributes:
        id: `acme`. name: `tenants/acme`.
        disabled: its keys are refused.
        created: UTC.
        number: of its record; grows by one with each change.
        weight: its share of a busy fleet, beside the other tenants' weights.
        limits: what it may use.
    """

    id: str
    name: str
    disabled: bool
    created: datetime | None
    number: int
    weight: int
    limits: Limits

    @classmethod
    def of(cls, message: pb.Tenant) -> "Tenant":
        limits = message.limits
        return cls(
            id=last_id(message.name),
            name=message.name,
            disabled=message.disabled,
            created=read_time(message, "create_time"),
            number=message.number,
            weight=message.weight,
            limits=Limits(
                requests_per_minute=limits.requests_per_minute,
                tokens_per_minute=limits.tokens_per_minute,
                concurrency=limits.concurrency,
                queue_length=limits.queue_length,
                max_running_jobs=limits.max_running_jobs,
                max_queued_jobs=limits.max_queued_jobs,
            ),
        )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A tenant's key, without its text.

    Attributes:
        id: names it in lists and when it is revoked.
        display_name: for people.
        created, revoked: UTC; `revoked` is None while the key is good.
    """

    id: str
    display_name: str
    created: datetime | None
    revoked: datetime | None

    @classmethod
    def of(cls, message: pb.ApiKey) -> "ApiKey":
        return cls(
            message.id, message.display_name, read_time(message, "create_time"), read_time(message, "revoke_time")
        )


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key that was just issued.

    Attributes:
        key: what lists show of it.
        secret: its text, `gw_<tenant>_<random>`; kept nowhere, so store it now. Left out of `repr`.
    """

    key: ApiKey
    secret: str = field(repr=False)

    @classmethod
    def of(cls, message: pb.CreateApiKeyResponse) -> "NewApiKey":
        return cls(ApiKey.of(message.key), message.secret)


def new_request_id() -> str:
    """An id for one change: the service carries a repeat out once."""
    return uuid.uuid4().hex


def create_tenant(tenant: str) -> Call[Tenant]:
    request = pb.CreateTenantRequest(tenant_id=tenant, request_id=new_request_id())
    return Call(Api.REGISTRY, "CreateTenant", request, Tenant.of)


def get_tenant(tenant: str) -> Call[Tenant]:
    return Call(Api.REGISTRY, "GetTenant", pb.GetTenantRequest(name=tenant_name(tenant)), Tenant.of)


def list_tenants() -> Listing[Tenant]:
    return Listing(
        Api.REGISTRY,
        "ListTenants",
        lambda token: pb.ListTenantsRequest(page_token=token),
        lambda page: [Tenant.of(item) for item in page.tenants],
    )


def update_tenant(
    tenant: str, *, disabled: bool | None, weight: int | None, expected_number: int | None, **limits: int | None
) -> Call[Tenant]:
    """Changes what is not None."""
    request = pb.UpdateTenantRequest(
        name=tenant_name(tenant),
        weight=weight,
        limits=pb.TenantLimits(**limits),
        expected_number=expected_number,
        request_id=new_request_id(),
    )
    if disabled is not None:
        request.disabled = disabled
    return Call(Api.REGISTRY, "UpdateTenant", request, Tenant.of)


def create_key(tenant: str, display_name: str) -> Call[NewApiKey]:
    request = pb.CreateApiKeyRequest(parent=tenant_name(tenant), display_name=display_name, request_id=new_request_id())
    return Call(Api.REGISTRY, "CreateApiKey", request, NewApiKey.of)


def list_keys(tenant: str) -> Listing[ApiKey]:
    return Listing(
        Api.REGISTRY,
        "ListApiKeys",
        lambda token: pb.ListApiKeysRequest(parent=tenant_name(tenant), page_token=token),
        lambda page: [ApiKey.of(item) for item in page.keys],
    )


def revoke_key(tenant: str, key_id: str) -> Call[ApiKey]:
    request = pb.RevokeApiKeyRequest(parent=tenant_name(tenant), id=key_id, request_id=new_request_id())
    return Call(Api.REGISTRY, "RevokeApiKey", request, ApiKey.of)
