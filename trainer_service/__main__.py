"""`python -m trainer_service`: builds the parts from the settings, serves, and goes down in order.

Order down: no new calls, watchers told to come back, workers ended and their jobs queued again, exit 0. A crash at any
point is repaired by the next start.
"""

import asyncio
import signal
import sys
from pathlib import Path

import structlog
from pydantic import ValidationError

from adapter_store import BaseInfo, open_store
from adapter_store.api.keyring import Keyring
from adapter_store.api.servicer import SERVICE_NAME as REGISTRY
from adapter_store.api.servicer import RegistryServicer
from adapter_store.base import read_base
from adapter_store.registration import clear_staging
from graftwork.errors import GraftError
from graftwork.logs import configure_logs
from graftwork.process import hold_folder, wrong_settings
from graftwork.rpc.server import RpcServer, build_server, tls_files, write_address_file
from graftwork.v1 import registry_pb2_grpc, trainer_pb2_grpc
from trainer_service.api.servicer import TrainerServicer
from trainer_service.core.base_folder import resolve_backbone
from trainer_service.core.database import open_database
from trainer_service.core.jobs import Jobs
from trainer_service.core.queue import FairQueue
from trainer_service.core.recipe import Fleet
from trainer_service.core.spawned_worker import Spawner, WorkerSettings
from trainer_service.core.supervisor import Policy, Supervisor
from trainer_service.core.trainer import Trainer
from trainer_service.core.watch import Watchers
from trainer_service.settings import TrainerSettings

SERVICE = "graftwork.v1.TrainerService"
GRACE_SECONDS = 2.0
"""For calls in flight when the service stops."""

log = structlog.get_logger(__name__)


async def serve(settings: TrainerSettings) -> None:
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
    store = await asyncio.to_thread(open_store, settings.store_url)
    backbone = await asyncio.to_thread(resolve_backbone, settings.backbone)
    base = await asyncio.to_thread(read_base, backbone)
    engine = await asyncio.to_thread(open_database, settings.database())
    watchers = Watchers(loop)
    jobs = Jobs(engine, watchers.changed)
    supervisor = Supervisor(jobs, FairQueue(jobs), Spawner(_workers(settings, backbone)), _policy(settings))
    trainer = Trainer(
        store=store,
        jobs=jobs,
        supervisor=supervisor,
        watchers=watchers,
        base=base,
        fleet=_fleet(settings, base),
        uploads_dir=settings.state_dir / "uploads",
        max_dataset_bytes=settings.max_dataset_bytes,
    )
    rpc = await build_server(
        authenticator=Keyring(store, settings.operator_key_file),
        host=settings.host,
        port=settings.port,
        service_names=[SERVICE, REGISTRY],
        tls=tls_files(settings.tls_certificate, settings.tls_key, settings.tls_client_ca),
    )
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(TrainerServicer(trainer), rpc.server)
    staging = settings.state_dir / "staging"
    await asyncio.to_thread(clear_staging, staging)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(RegistryServicer(store, base, staging), rpc.server)
    running = asyncio.create_task(supervisor.run(), name="supervisor")
    # A supervisor that fails must take the service down: jobs would be accepted and never run.
    running.add_done_callback(lambda _: stop.set())
    await rpc.server.start()
    await rpc.set_serving(True)
    if settings.address_file:
        write_address_file(settings.address_file, settings.host, rpc.port)
    log.info("serving", host=settings.host, port=rpc.port, base=base.digest)
    await stop.wait()
    await _go_down(rpc, watchers, supervisor, running)
    engine.dispose()


async def _go_down(rpc: RpcServer, watchers: Watchers, supervisor: Supervisor, running: asyncio.Task[None]) -> None:
    log.info("stopping")
    await rpc.set_serving(False)
    watchers.close()
    await rpc.server.stop(GRACE_SECONDS)
    await supervisor.stop()
    await running
    log.info("stopped")


def _workers(settings: TrainerSettings, backbone: Path) -> WorkerSettings:
    return WorkerSettings(
        state_dir=settings.state_dir,
        backbone=backbone,
        store_url=settings.store_url,
        device=settings.training_device(),
        threads=settings.threads,
        micro_batch_tokens=settings.micro_batch_tokens,
        checkpoint_seconds=settings.checkpoint_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
    )


def _fleet(settings: TrainerSettings, base: BaseInfo) -> Fleet:
    return Fleet(
        device=settings.training_device(),
        max_rank=settings.max_rank,
        base_parameters=base.parameters,
        max_positions=base.max_position_embeddings,
        modules=frozenset(module.rsplit(".", 1)[-1] for module in base.modules),
    )


def _policy(settings: TrainerSettings) -> Policy:
    return Policy(
        max_running=settings.max_running_jobs,
        max_attempts=settings.max_attempts,
        backoff_seconds=settings.backoff_seconds,
        heartbeat_timeout=settings.heartbeat_timeout,
        kill_after=settings.kill_after,
    )


def main() -> int:
    """Returns the exit status: 0 after a stop, 1 when the service could not start, 2 for wrong settings."""
    configure_logs("trainer")
    try:
        settings = TrainerSettings()  # type: ignore[call-arg]  # from the environment
    except ValidationError as error:
        log.error(wrong_settings(error, "GRAFT_TRAINER_"))
        return 2
    configure_logs("trainer", settings.log_level)
    settings = settings.model_copy(update={"state_dir": settings.state_dir.expanduser().resolve()})
    try:
        with hold_folder(settings.state_dir, "GRAFT_TRAINER_STATE_DIR"):
            asyncio.run(serve(settings))
    except (GraftError, OSError) as error:
        log.error("cannot_serve", reason=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
