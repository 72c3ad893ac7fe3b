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
from graftwork.sdk.audit import AuditChain, AuditChange, AuditEntry, AuditProblem, AuditProblemKind, AuditReport
from graftwork.sdk.blocking.client import Client
from graftwork.sdk.blocking.jobs import Job
from graftwork.sdk.blocking.streaming import AnswerStream
from graftwork.sdk.callers import Caller, Role
from graftwork.sdk.datasets import Dataset, Deletion, Finding, Level, RowsRefused
from graftwork.sdk.differences import ModuleDiff, ValueDiff, VersionDiff
from graftwork.sdk.estimates import JobEstimate
from graftwork.sdk.explanations import RecipeAdvice, RecipeExplanation, RecipeSetting, SettingSource
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
from graftwork.sdk.jobs import JobNotSucceeded, JobRecord, TrainerInfo, WaitTimedOut
from graftwork.sdk.merged import MergedState, MergedVersion
from graftwork.sdk.merging import MergeReport
from graftwork.sdk.names import NoFullDigest, TenantMissing
from graftwork.sdk.recipe import Recipe
from graftwork.sdk.serving import Drained, Residency, ServingInfo, Tier
from graftwork.sdk.signatures import Signature
from graftwork.sdk.tenants import ApiKey, Limits, NewApiKey, Tenant
from graftwork.sdk.traffic import Latency, TenantTraffic, Traffic, TrafficSeries, TrafficWindow
from graftwork.sdk.validation import DatasetFigures, DatasetReport, PreviewRow, PreviewSpan

__all__ = [
    "Adapter",
    "Alias",
    "Answer",
    "AnswerStream",
    "ApiKey",
    "AsyncAnswerStream",
    "AsyncClient",
    "AsyncJob",
    "AuditChain",
    "AuditChange",
    "AuditEntry",
    "AuditProblem",
    "AuditProblemKind",
    "AuditReport",
    "Caller",
    "CheckpointSaved",
    "Choice",
    "Client",
    "DamagedDownload",
    "Dataset",
    "DatasetFigures",
    "DatasetReport",
    "Deletion",
    "Drained",
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
    "Latency",
    "Level",
    "Limits",
    "Measured",
    "MergeReport",
    "MergedState",
    "MergedVersion",
    "Message",
    "ModuleDiff",
    "NewApiKey",
    "NoFullDigest",
    "NotRunning",
    "Notice",
    "Options",
    "Piece",
    "PreviewRow",
    "PreviewSpan",
    "ProbeOutcome",
    "Probed",
    "Published",
    "Recipe",
    "RecipeAdvice",
    "RecipeExplanation",
    "RecipeSetting",
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
    "Role",
    "RowsRefused",
    "ServingInfo",
    "SettingSource",
    "Signature",
    "StateChanged",
    "StepDone",
    "Tenant",
    "TenantMissing",
    "TenantTraffic",
    "Tier",
    "Timings",
    "TlsIncomplete",
    "TokenScore",
    "Traffic",
    "TrafficSeries",
    "TrafficWindow",
    "TrainerInfo",
    "ValueDiff",
    "Version",
    "VersionDiff",
    "WaitTimedOut",
]
