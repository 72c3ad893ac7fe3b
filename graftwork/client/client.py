"""The synchronous client: every call of the three services under one object.

Owns which calls of the trainer and of serving exist, and which may be repeated; the registry's are in `registry.py`,
those that look ahead of a job in `plans.py`. Results are the protocol's messages; errors are `RemoteError`s.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from graftwork.client.audits import together
from graftwork.client.channel import CALL_TIMEOUT_S, Channel, Identity
from graftwork.client.errors import RemoteInternal, RemoteUnavailable
from graftwork.client.folders import DamagedDownload, Receiver, new_folder
from graftwork.client.generation import Answer, collect
from graftwork.client.plans import PlanCalls, format_of
from graftwork.client.registry import CHUNK_BYTES, UPLOAD_TIMEOUT_S, RegistryCalls, tenant_name
from graftwork.v1 import (
    common_pb2,
    registry_pb2,
    registry_pb2_grpc,
    serving_pb2,
    serving_pb2_grpc,
    trainer_pb2,
    trainer_pb2_grpc,
)

_WATCH_PAUSE_S = 0.5  # before a broken watch is taken up again
_WATCH_TRIES = 120  # without a single event in between: a minute of the service being away


class Client(RegistryCalls, PlanCalls):
    """Calls Graftwork.

    Args:
        trainer: `host:port` of the trainer; also answers registry calls.
        serving: `host:port` of the serving service.
        api_key: an operator's or a tenant's key.
        tls_ca: PEM file; None speaks plain text.
        identity: the client's own certificate, for services that ask for one (mTLS).
    """

    def __init__(
        self,
        trainer: str,
        serving: str,
        api_key: str | None = None,
        tls_ca: Path | None = None,
        identity: Identity | None = None,
    ) -> None:
        self.trainer = Channel(trainer, api_key, tls_ca, identity)
        self.serving = Channel(serving, api_key, tls_ca, identity)
        self._jobs = trainer_pb2_grpc.TrainerServiceStub(self.trainer.channel)
        self._registry = registry_pb2_grpc.RegistryServiceStub(self.trainer.channel)
        self._generation = serving_pb2_grpc.ServingServiceStub(self.serving.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends both connections."""
        self.trainer.close()
        self.serving.close()

    def caller(self) -> registry_pb2.Caller:
        """Says whose key the client has; serving is asked where the trainer is away, since both know the keys."""
        request = registry_pb2.GetCallerRequest()
        try:
            return self.trainer.call(self._registry.GetCaller, request, idempotent=True)
        except RemoteUnavailable as away:
            beside = registry_pb2_grpc.RegistryServiceStub(self.serving.channel)
            try:
                return self.serving.call(beside.GetCaller, request, idempotent=False)
            except RemoteUnavailable:
                raise away from None

    def verify_audit(self, read: Callable[[int], None] = lambda _: None) -> registry_pb2.AuditReport:
        """Holds the audit log to its chains, as the trainer and, where it is up, serving see it; see `audits.together`.

        Args:
            read: called with the entries that were read so far, by each service anew.

        Raises:
            RemoteForbidden: a tenant's key. RemoteUnavailable: neither service is up.
        """
        reports, away = [], None
        stubs = (
            (self.trainer, self._registry),
            (self.serving, registry_pb2_grpc.RegistryServiceStub(self.serving.channel)),
        )
        for channel, stub in stubs:
            try:
                for answer in channel.stream(
                    stub.VerifyAuditLog, registry_pb2.VerifyAuditLogRequest(), UPLOAD_TIMEOUT_S
                ):
                    if answer.WhichOneof("part") == "report":
                        reports.append(answer.report)
                    else:
                        read(answer.entries_read)
            except RemoteUnavailable as error:
                away = error
        if not reports:
            raise away or RemoteInternal("the audit log was looked through without a report; try again")
        return together(reports)

    # Data sets and jobs

    def upload_dataset(
        self, tenant: str, file: Path, display_name: str = "", sent: Callable[[int], None] = lambda _: None
    ) -> common_pb2.Dataset:
        """Uploads a JSONL or Parquet file (told apart by its ending).

        Args:
            tenant: the owner.
            file: what to upload.
            display_name: for people; the file's name when empty.
            sent: called with the number of bytes of each piece, for a progress bar.

        Raises:
            RemoteInvalid: rows that cannot be used, by line number; `refused_rows` has them as a report.
            OSError: the file cannot be read.
        """
        with file.open("rb") as source:  # an unreadable file fails here, by name, and not inside gRPC's thread
            digest = hashlib.file_digest(source, "sha256").hexdigest()
        header = trainer_pb2.UploadDatasetHeader(
            parent=tenant_name(tenant), display_name=display_name or file.name, format=format_of(file), sha256=digest
        )

        def pieces() -> Iterator[trainer_pb2.UploadDatasetRequest]:
            yield trainer_pb2.UploadDatasetRequest(header=header)
            with file.open("rb") as source:
                while chunk := source.read(CHUNK_BYTES):
                    yield trainer_pb2.UploadDatasetRequest(chunk=chunk)
                    sent(len(chunk))

        return self.trainer.call(self._jobs.UploadDataset, pieces(), idempotent=False, timeout=UPLOAD_TIMEOUT_S)

    def create_job(self, request: trainer_pb2.CreateJobRequest) -> trainer_pb2.Job:
        """Queues a job; safe to repeat when the request carries an idempotency key."""
        return self.trainer.call(self._jobs.CreateJob, request, idempotent=bool(request.idempotency_key))

    def get_job(self, name: str) -> trainer_pb2.Job:
        return self.trainer.call(self._jobs.GetJob, trainer_pb2.GetJobRequest(name=name), idempotent=True)

    def list_jobs(self, tenant: str = "-") -> Iterator[trainer_pb2.Job]:
        token = ""
        while True:
            request = trainer_pb2.ListJobsRequest(parent=tenant_name(tenant), page_token=token)
            page = self.trainer.call(self._jobs.ListJobs, request, idempotent=True)
            yield from page.jobs
            if not (token := page.next_page_token):
                return

    def cancel_job(self, name: str) -> trainer_pb2.Job:
        return self.trainer.call(self._jobs.CancelJob, trainer_pb2.CancelJobRequest(name=name), idempotent=True)

    def resume_job(self, name: str) -> trainer_pb2.Job:
        """Queues a job that failed or was cancelled; it goes on from its newest checkpoint."""
        return self.trainer.call(self._jobs.ResumeJob, trainer_pb2.ResumeJobRequest(name=name), idempotent=True)

    def read_job_log(self, name: str, last_bytes: int = 0) -> Iterator[bytes]:
        """Yields what the job's own process printed; operators only. `last_bytes`: only its end, 0 is all."""
        request = trainer_pb2.ReadJobLogRequest(name=name, last_bytes=last_bytes)
        for message in self.trainer.stream(self._jobs.ReadJobLog, request):
            yield message.chunk

    def watch_job(self, name: str, after: int = 0) -> Iterator[trainer_pb2.JobEvent]:
        """Yields a job's events, each once and in order, until its last; outlives restarts of the trainer.

        Args:
            name: `tenants/{tenant}/jobs/{job}`.
            after: number of the last event that the caller has.
        """
        tries = 0
        while True:
            request = trainer_pb2.WatchJobRequest(name=name, after=after)
            try:
                for event in self.trainer.stream(self._jobs.WatchJob, request):
                    after, tries = event.number, 0
                    yield event
                return
            except RemoteUnavailable:
                tries += 1
                if tries >= _WATCH_TRIES:
                    raise
                time.sleep(_WATCH_PAUSE_S)

    def merge_version(
        self,
        name: str,
        folder: Path,
        *,
        evaluate: bool = True,
        progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    ) -> trainer_pb2.MergeReport:
        """Merges a version into the backbone and writes the Hugging Face folder; all of it, verified, or nothing.

        Args:
            name: of a version, or of an alias.
            folder: new or empty.
            evaluate: measure base, adapter and merged weights, and refuse a result that is not what the adapter is.
            progress: called with the stage (`receiving` is the last), what is done of it and how much it is; 0: not known.

        Raises:
            InvalidFolder: the folder is not empty.
            RemotePrecondition: it cannot be merged; the message says why.
            DamagedDownload: what arrived is not what the trainer made.
        """
        request = trainer_pb2.MergeVersionRequest(name=name, skip_evaluation=not evaluate)
        with new_folder(folder) as partial:
            report, receiver, done, total = trainer_pb2.MergeReport(), Receiver(partial, ()), 0, 0
            for message in self.trainer.stream(self._jobs.MergeVersion, request):
                match message.WhichOneof("part"):
                    case "progress":
                        progress(message.progress.stage, message.progress.done, message.progress.total)
                    case "report":
                        report = message.report
                        total = sum(file.size_bytes for file in report.files)
                        receiver = Receiver(partial, [(f.path, f.sha256, f.size_bytes) for f in report.files])
                    case "file":
                        receiver.begin(message.file.path)
                    case "chunk":
                        receiver.write(message.chunk)
                        done += len(message.chunk)
                        progress("receiving", done, total)
            receiver.finish()
            if not report.version:
                raise DamagedDownload("the trainer sent nothing; try again")
        return report

    def trainer_info(self) -> trainer_pb2.TrainerInfo:
        return self.trainer.call(self._jobs.GetTrainerInfo, trainer_pb2.GetTrainerInfoRequest(), idempotent=True)

    # Serving

    def stream_generate(
        self, request: serving_pb2.GenerateRequest, timeout: float | None = None
    ) -> Iterator[serving_pb2.GenerateResponse]:
        """Yields an answer's pieces as they come; closing the iterator stops the generation."""
        return self.serving.stream(self._generation.Generate, request, timeout)

    def generate(self, request: serving_pb2.GenerateRequest, timeout: float | None = None) -> Answer:
        """Waits for a whole answer."""
        return collect(self.stream_generate(request, timeout))

    def serving_info(self) -> serving_pb2.ServingInfo:
        request = serving_pb2.GetServingInfoRequest()
        return self.serving.call(self._generation.GetServingInfo, request, idempotent=True)

    def traffic(self, tenant: str | None = None, *, series: bool = False) -> serving_pb2.Traffic:
        """What was asked of the serving service in the last 1, 5 and 60 minutes, and what came of it.

        Args:
            tenant: whose; None is everybody's for an operator, and a tenant's own.
            series: also how it came over time: 60 steps of 5 s and 60 of 60 s.

        Raises:
            RemoteNotFound: another tenant's.
        """
        request = serving_pb2.GetTrafficRequest(parent=tenant_name(tenant) if tenant else "", series=series)
        return self.serving.call(self._generation.GetTraffic, request, idempotent=True)

    def residency(self) -> list[serving_pb2.Residency]:
        return list(self.held().adapters)

    def held(self) -> serving_pb2.ListResidencyResponse:
        """Everything that the serving service holds: adapters, and versions that are merged or are to be."""
        request = serving_pb2.ListResidencyRequest()
        return self.serving.call(self._generation.ListResidency, request, idempotent=True)

    def promote(self, tenant: str, model: str, *, wait: bool = False) -> serving_pb2.Merged:
        """Wants a version merged; with `wait` returns once it serves, or has failed for the first time."""
        request = serving_pb2.PromoteRequest(tenant=tenant, model=model, wait=wait)
        return self.serving.call(self._generation.Promote, request, idempotent=True, timeout=UPLOAD_TIMEOUT_S)

    def demote(self, tenant: str, model: str) -> serving_pb2.Merged:
        """Ends a version's merged engine once its requests have finished."""
        request = serving_pb2.DemoteRequest(tenant=tenant, model=model)
        return self.serving.call(self._generation.Demote, request, idempotent=False)

    def prefetch(
        self, tenant: str, model: str, tier: serving_pb2.Tier = serving_pb2.TIER_HOST
    ) -> serving_pb2.Residency:
        """Brings a version in before anybody asks for it, and returns when it is there."""
        request = serving_pb2.PrefetchRequest(tenant=tenant, model=model, tier=tier)
        return self.serving.call(self._generation.Prefetch, request, idempotent=True, timeout=UPLOAD_TIMEOUT_S)

    def pin(self, tenant: str, model: str, *, unpin: bool = False) -> serving_pb2.Residency:
        """Keeps a version in host memory, or lets it go again."""
        request = serving_pb2.PinRequest(tenant=tenant, model=model, unpin=unpin)
        return self.serving.call(self._generation.Pin, request, idempotent=True, timeout=UPLOAD_TIMEOUT_S)

    def drain(self, *, wait_seconds: float = 0.0, resume: bool = False) -> serving_pb2.DrainResponse:
        """Takes the serving node out of traffic, or back; with `wait_seconds` returns when nothing is under way, or they are over."""
        request = serving_pb2.DrainRequest(resume=resume, wait_seconds=wait_seconds)
        timeout = CALL_TIMEOUT_S + wait_seconds
        return self.serving.call(self._generation.Drain, request, idempotent=True, timeout=timeout)

    def evict(self, tenant: str, adapter: str, version: str) -> serving_pb2.EvictResponse:
        request = serving_pb2.EvictRequest(tenant=tenant, adapter=adapter, version=version)
        return self.serving.call(self._generation.Evict, request, idempotent=True)
