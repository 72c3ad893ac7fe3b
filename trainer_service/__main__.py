"""`python -m trainer_service`: builds the parts from the settings, serves, and goes down in order.

Order down: no new calls, watchers told to come back, workers ended and their jobs queued again, exit 0. A crash at any
point is repaired by the next start.
"""

import asyncio
import signal
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import structlog

from adapter_store import BaseInfo, open_store
from adapter_store.api.audit_registry import registry_tellers
from adapter_store.api.audit_trail import AuditTrail
from adapter_store.api.keyring import Keyring
from adapter_store.api.servicer import SERVICE_NAME as REGISTRY
from adapter_store.api.servicer import RegistryServicer
from adapter_store.base import read_base
from adapter_store.registration import clear_staging
from graftwork.config import ConfigError
from graftwork.errors import GraftError
from graftwork.late_lines import flush
from graftwork.logs import configure_logs
from graftwork.process import hold_folder
from graftwork.rpc.door import Door
from graftwork.rpc.metrics_port import Exposed, expose_metrics
from graftwork.rpc.server import RpcServer, build_server, write_address_file
from graftwork.rpc.tls import tls_files
from graftwork.scratch import own_temporary_files
from graftwork.signing import SigningKey
from graftwork.template import DEFAULT_CHAT_TEMPLATE, template_digest
from graftwork.v1 import registry_pb2_grpc, trainer_pb2_grpc
from trainer_service.api.audit import trainer_looks, trainer_tellers
from trainer_service.api.servicer import TrainerServicer
from trainer_service.core.base_folder import resolve_backbone
from trainer_service.core.calibration import Calibrations
from trainer_service.core.data_holds import DataHolds
from trainer_service.core.database import open_database
from trainer_service.core.device import find_device
from trainer_service.core.inspector import Inspector
from trainer_service.core.jobs import Jobs
from trainer_service.core.lease import Lease, service_id
from trainer_service.core.merging import Merger, MergeSettings
from trainer_service.core.planning import Planner
from trainer_service.core.queue import FairQueue
from trainer_service.core.recipe import Fleet
from trainer_service.core.spawned_worker import Spawner, WorkerSettings
from trainer_service.core.supervisor import Supervisor
from trainer_service.core.tenant_limits import TenantLimits
from trainer_service.core.trainer import Trainer
from trainer_service.core.uploads import Uploads
from trainer_service.core.verdict import Policy
from trainer_service.core.watch import Watchers
from trainer_service.core.worker_messages import ProbeSpec
from trainer_service.settings import TrainerSettings

SERVICE = "graftwork.v1.TrainerService"
GRACE_SECONDS = 2.0
"""For calls in flight when the service stops."""

log = structlog.get_logger(__name__)


async def serve(settings: TrainerSettings, metrics: Exposed) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        GraftError: the store cannot be used.
        FileNotFoundError: no backbone.
        OSError: the address is taken.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.signing_key_file:
        SigningKey.load(settings.signing_key_file)  # a wrong one shows now, not at the end of the first job
    store = await asyncio.to_thread(open_store, settings.store_url)
    backbone = await asyncio.to_thread(resolve_backbone, settings.backbone)
    base = await asyncio.to_thread(read_base, backbone)
    database = await asyncio.to_thread(open_database, settings.database())
    watchers = Watchers(loop)
    jobs = Jobs(database, watchers.changed)
    fleet = _fleet(settings, base)
    calibrations = settings.state_dir / "calibration"
    limits = TenantLimits(store.tenants.get, settings.max_queued_jobs)
    lease = Lease(jobs, service_id(settings.state_dir), settings.lease_seconds)
    queue = FairQueue(jobs, lease.owner, limits.running)
    spawner = Spawner(_workers(settings, backbone, fleet, calibrations))
    supervisor = Supervisor(jobs, queue, lease, spawner, _policy(settings))
    holds = DataHolds(store.holds, jobs, f"trainer {lease.owner}")
    uploads = Uploads(
        store,
        Inspector(),
        backbone=backbone,
        folder=settings.state_dir / "uploads",
        max_bytes=settings.max_dataset_bytes,
    )
    trainer = Trainer(
        store=store,
        jobs=jobs,
        holds=holds,
        supervisor=supervisor,
        watchers=watchers,
        limits=limits,
        merger=Merger(_merges(settings, backbone)),
        base=base,
        planner=Planner(base, fleet, Calibrations(calibrations)),
        uploads=uploads,
        jobs_dir=settings.jobs(),
    )
    trail = await asyncio.to_thread(
        AuditTrail,
        store,
        settings.state_dir / "audit",
        registry_tellers(store) | trainer_tellers(store),
        trainer_looks(jobs),
    )
    keyring = Keyring(store, settings.operator_key_file, trail.keys_changed)
    rpc = await build_server(
        authenticator=Door(keyring, settings.auth_failures_per_minute),
        host=settings.host,
        port=settings.port,
        service_names=[SERVICE, REGISTRY],
        tls=tls_files(settings.tls_certificate, settings.tls_key, settings.tls_client_ca),
        observers=metrics.observers,
        trail=trail,
    )
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(TrainerServicer(trainer, store), rpc.server)
    staging = settings.state_dir / "staging"
    await asyncio.to_thread(clear_staging, staging)
    registry = RegistryServicer(store, base, staging, settings.signing_key_file, trail)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, rpc.server)
    running = asyncio.create_task(supervisor.run(), name="supervisor")
    # A supervisor that fails must take the service down: jobs would be accepted and never run.
    running.add_done_callback(lambda _: stop.set())
    holding = asyncio.create_task(holds.run(), name="holds")
    holding.add_done_callback(lambda _: stop.set())
    await rpc.server.start()
    await rpc.set_serving(True)
    if settings.address_file:
        write_address_file(settings.address_file, settings.host, rpc.port)
    log.info("serving", host=settings.host, port=rpc.port, metrics_port=metrics.port, base=base.digest)
    await stop.wait()
    holding.cancel()
    await _go_down(rpc, watchers, supervisor, running)
    await asyncio.to_thread(trail.close)
    with suppress(asyncio.CancelledError):
        await holding  # raises what ended it
    database.close()


async def _go_down(rpc: RpcServer, watchers: Watchers, supervisor: Supervisor, running: asyncio.Task[None]) -> None:
    log.info("stopping")
    await rpc.set_serving(False)
    watchers.close()
    await rpc.server.stop(GRACE_SECONDS)
    await supervisor.stop()
    await running
    flush()
    log.info("stopped")


def _workers(settings: TrainerSettings, backbone: Path, fleet: Fleet, calibrations: Path) -> WorkerSettings:
    return WorkerSettings(
        jobs_dir=settings.jobs(),
        backbone=backbone,
        store_url=settings.store_url,
        device=settings.training_device(),
        threads=settings.threads,
        devices=settings.devices,
        micro_batch_tokens=settings.tokens_of_a_pass(),
        checkpoint_seconds=settings.checkpoint_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        signing_key_file=settings.signing_key_file,
        audit_folder=settings.state_dir.absolute() / "audit",
        fleet=fleet,
        calibrations=calibrations,
        store_patience_seconds=settings.store_patience_seconds,
        probe=_probe(settings),
    )


def _merges(settings: TrainerSettings, backbone: Path) -> MergeSettings:
    return MergeSettings(
        folder=settings.state_dir / "merges",
        backbone=backbone,
        store_url=settings.store_url,
        device=settings.training_device(),
        threads=settings.threads,
    )


def _probe(settings: TrainerSettings) -> ProbeSpec | None:
    if settings.probe == "off" or not (settings.probe_address or settings.probe_address_file):
        return None
    return ProbeSpec(
        mode=settings.probe,
        address=settings.probe_address,
        address_file=settings.probe_address_file,
        operator_key_file=settings.operator_key_file,
        tls_ca=settings.probe_tls_ca,
        tls_certificate=settings.probe_tls_certificate,
        tls_key=settings.probe_tls_key,
        wait_seconds=settings.probe_wait_seconds,
    )


def _fleet(settings: TrainerSettings, base: BaseInfo) -> Fleet:
    device = find_device(settings.training_device())
    return Fleet(
        device=device.kind,
        device_name=device.name,
        memory_bytes=device.memory_bytes,
        bf16=device.bf16,
        threads=settings.threads,
        micro_batch_tokens=settings.tokens_of_a_pass(),
        max_rank=settings.max_rank,
        serves_base=settings.serves_base,
        serves_template=settings.serves_template,
        base_digest=base.digest,
        template_digest=template_digest(base.chat_template or DEFAULT_CHAT_TEMPLATE),
        base_parameters=base.parameters,
        max_positions=base.max_position_embeddings,
        modules=frozenset(module.rsplit(".", 1)[-1] for module in base.modules),
    )


def _policy(settings: TrainerSettings) -> Policy:
    return Policy(
        max_running=settings.max_running_jobs,
        max_attempts=settings.max_attempts,
        max_interruptions=settings.max_interruptions,
        backoff_seconds=settings.backoff_seconds,
        heartbeat_timeout=settings.heartbeat_timeout,
        kill_after=settings.kill_after,
        micro_batch_tokens=settings.tokens_of_a_pass(),
        keep_checkpoints=timedelta(hours=settings.keep_checkpoints_hours),
    )


def main() -> int:
    """Returns the exit status: 0 after a stop, 1 when the service could not start, 2 for wrong settings."""
    configure_logs("trainer")
    try:
        settings = TrainerSettings.from_command(sys.argv[1:], "python -m trainer_service")
    except ConfigError as error:
        log.error(str(error))
        return 2
    configure_logs("trainer", settings.log_level)
    settings = settings.model_copy(update={"state_dir": settings.state_dir.expanduser().resolve()})
    try:
        with (
            hold_folder(settings.state_dir, "GRAFT_TRAINER_STATE_DIR"),
            own_temporary_files(settings.state_dir),
            expose_metrics(settings.metrics_host, settings.metrics_port) as metrics,
        ):
            asyncio.run(serve(settings, metrics))
    except (GraftError, OSError) as error:
        log.error("cannot_serve", reason=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
