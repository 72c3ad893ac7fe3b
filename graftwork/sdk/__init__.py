"""The Python SDK: `Client` and `AsyncClient`, typed frozen results, and the errors that calls raise.

Owns what a developer programs against. Does not own the messages that travel (`graftwork.v1`) nor the calls of the
command (`graftwork.client`).
"""

from graftwork.client.errors import (
    RemoteAlreadyExists,
    RemoteCancelled,
    RemoteConflict,
    RemoteCorrupt,
    RemoteDeadline,
    RemoteError,
    RemoteExhausted,
    RemoteForbidden,
    RemoteInternal,
    RemoteInvalid,
    RemoteNotFound,
    RemotePrecondition,
    RemoteUnauthenticated,
    RemoteUnavailable,
)
from graftwork.client.folders import DamagedDownload, InvalidFolder
from graftwork.local.errors import NotRunning
from graftwork.rpc.tls import TlsIncomplete
from graftwork.sdk.adapter_files import Registered
from graftwork.sdk.adapters import Adapter, Alias, FileCheck, Version
from graftwork.sdk.answers import Answer, Choice, Message, Options, Piece, Timings, TokenScore
from graftwork.sdk.asynchronous.client import AsyncClient
from graftwork.sdk.asynchronous.jobs import AsyncJob
from graftwork.sdk.asynchronous.streaming import AsyncAnswerStream
from graftwork.sdk.blocking.client import Client
from graftwork.sdk.blocking.jobs import Job
from graftwork.sdk.blocking.streaming import AnswerStream
from graftwork.sdk.datasets import Dataset, Deletion, Finding, Level, RowsRefused
from graftwork.sdk.estimates import JobEstimate
from graftwork.sdk.job_events import (
    CheckpointSaved,
    Estimated,
    Evaluated,
    JobEvent,
    Measured,
    Notice,
    Probed,
    Published,
    StateChanged,
    StepDone,
)
from graftwork.sdk.job_states import FailureReason, JobState, ProbeOutcome
from graftwork.sdk.jobs import JobNotSucceeded, JobRecord, WaitTimedOut
from graftwork.sdk.names import NoFullDigest, TenantMissing
from graftwork.sdk.recipe import Recipe
from graftwork.sdk.serving import Residency, ServingInfo, Tier
from graftwork.sdk.tenants import ApiKey, Limits, NewApiKey, Tenant

__all__ = [
    "Adapter",
    "Alias",
    "Answer",
    "AnswerStream",
    "ApiKey",
    "AsyncAnswerStream",
    "AsyncClient",
    "AsyncJob",
    "CheckpointSaved",
    "Choice",
    "Client",
    "DamagedDownload",
    "Dataset",
    "Deletion",
    "Estimated",
    "Evaluated",
    "FailureReason",
    "FileCheck",
    "Finding",
    "InvalidFolder",
    "Job",
    "JobEstimate",
    "JobEvent",
    "JobNotSucceeded",
    "JobRecord",
    "JobState",
    "Level",
    "Limits",
    "Measured",
    "Message",
    "NewApiKey",
    "NoFullDigest",
    "NotRunning",
    "Notice",
    "Options",
    "Piece",
    "ProbeOutcome",
    "Probed",
    "Published",
    "Recipe",
    "Registered",
    "RemoteAlreadyExists",
    "RemoteCancelled",
    "RemoteConflict",
    "RemoteCorrupt",
    "RemoteDeadline",
    "RemoteError",
    "RemoteExhausted",
    "RemoteForbidden",
    "RemoteInternal",
    "RemoteInvalid",
    "RemoteNotFound",
    "RemotePrecondition",
    "RemoteUnauthenticated",
    "RemoteUnavailable",
    "Residency",
    "RowsRefused",
    "ServingInfo",
    "StateChanged",
    "StepDone",
    "Tenant",
    "TenantMissing",
    "Tier",
    "Timings",
    "TlsIncomplete",
    "TokenScore",
    "Version",
    "WaitTimedOut",
]
