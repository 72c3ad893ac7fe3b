"""`python -m serving_service`: binds, loads the engine, serves until a signal or the engine's death.

Exit 0 after SIGTERM or SIGINT, 1 when the engine died or the start failed, so that a supervisor restarts it. Owns the
process: signals, the order of start and stop, the choice of the real engine.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog
import uvloop

from adapter_store import BaseInfo, open_store, read_base
from adapter_store.api.audit_registry import registry_tellers
from adapter_store.api.audit_trail import AuditTrail
from adapter_store.api.keyring import Keyring
from adapter_store.api.servicer import SERVICE_NAME as REGISTRY
from adapter_store.api.servicer import RegistryServicer
from adapter_store.registration import clear_staging
from graftwork.config import ConfigError
from graftwork.errors import GraftError
from graftwork.late_lines import flush
from graftwork.logs import configure_logs
from graftwork.process import hold_folder
from graftwork.rpc.door import Door
from graftwork.rpc.server import RpcServer, build_server, write_address_file
from graftwork.rpc.tls import tls_files
from graftwork.scratch import own_temporary_files
from graftwork.v1 import registry_pb2_grpc, serving_pb2_grpc
from serving_service.api.audit import serving_tellers
from serving_service.api.http.app import create_app
from serving_service.api.http.health import PATHS, Probed, health_router
from serving_service.api.http.observed import ObservedHttp
from serving_service.api.http.routes import OPENAI_PATHS, OpenAIRoutes
from serving_service.api.http.server import HttpServer
from serving_service.api.servicer import ServingServicer
from serving_service.core.admission_limits import AdmissionLimits, TenantPolicy
from serving_service.core.fast_path.auto import AutoRules
from serving_service.core.fast_path.weights import MergedStore
from serving_service.core.prompt_limits import PromptLimits
from serving_service.core.service import Merging, Serving
from serving_service.core.slots import slots_for
from serving_service.engine.protocol import Engine
from serving_service.observe.build import Observation, observe
from serving_service.settings import ServingSettings

if TYPE_CHECKING:
    from serving_service.engine.vllm_engine import VllmEngine

SERVICE = "graftwork.v1.ServingService"
_GRACE_SECONDS = 2.0  # for streams to carry their last message once generation has drained

log = structlog.get_logger(__name__)


async def serve(settings: ServingSettings) -> int:
    """Serves until a signal or the engine's death; returns the exit code."""
    stopping, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurry if stopping.is_set() else stopping).set())
    observation = observe(settings)
    serving, engine, rpc, http, trail = await _build(settings, observation)
    lag = asyncio.create_task(observation.lag.run(), name="loop lag")
    await rpc.server.start()
    await rpc.set_serving(True, REGISTRY)  # needs no model
    if http is not None:
        await http.start()
        if settings.http_address_file:
            write_address_file(settings.http_address_file, settings.http_host, http.port)
    if settings.address_file:  # last: whoever waits for it finds the other one too
        write_address_file(settings.address_file, settings.host, rpc.port)
    log.info("bound", host=settings.host, port=rpc.port, http_port=http.port if http else None)

    asked = asyncio.create_task(stopping.wait(), name="signal")
    loading = asyncio.create_task(serving.start(), name="load")
    failed = False
    await asyncio.wait({asked, loading}, return_when=asyncio.FIRST_COMPLETED)
    if loading.done() and not asked.done():
        if error := loading.exception():
            log.error("the engine did not start", cause=str(error), exc_info=error)
            failed = True
        else:
            await rpc.set_serving(serving.readiness().ready, "", SERVICE)  # it may have been drained meanwhile
            death = asyncio.create_task(engine.died(), name="engine death")
            await asyncio.wait({asked, death}, return_when=asyncio.FIRST_COMPLETED)
            if death.done() and not asked.done():
                log.error("the engine died", cause=death.result())
                serving.engine_died()
                failed = True
            death.cancel()
    log.info("stopping")
    serving.drain(ending=True)
    draining = asyncio.create_task(serving.drained(0.0 if failed else settings.drain_seconds), name="drain")
    await rpc.set_serving(False)
    hurried = asyncio.create_task(hurry.wait(), name="second signal")
    await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
    if hurried.done():
        log.warning("a second signal: requests in flight are cut off")
    await serving.stop()
    await rpc.server.stop(_GRACE_SECONDS)
    if http is not None:
        await http.stop()  # last: until then /readyz says why this node is not ready
    for task in (asked, loading, draining, hurried, lag):
        task.cancel()
    await asyncio.gather(asked, loading, draining, hurried, lag, return_exceptions=True)
    await asyncio.to_thread(trail.close)
    await asyncio.to_thread(observation.close)
    flush()
    log.info("stopped", failed=failed)
    return 1 if failed else 0


async def _build(
    settings: ServingSettings, observation: Observation
) -> tuple[Serving, Engine, RpcServer, HttpServer | None, AuditTrail]:
    from serving_service.engine.backbone import local_folder
    from serving_service.engine.vllm_engine import VllmEngine

    store = await asyncio.to_thread(open_store, settings.store_url)
    backbone = await asyncio.to_thread(local_folder, settings.backbone)
    base = await asyncio.to_thread(read_base, backbone)
    settings = _with_slots(settings, base)
    engine = VllmEngine(str(backbone), settings)
    serving = Serving(
        store=store,
        base=base,
        engine=engine,
        cache_dir=settings.cache_dir / "adapters",
        disk_budget_bytes=settings.disk_budget_bytes,
        host_budget_bytes=settings.host_budget_bytes,
        max_lora_rank=settings.max_lora_rank,
        limits=PromptLimits(settings.max_prompt_bytes, settings.max_messages),
        admission=_admission(settings),
        tenant_defaults=_tenant_defaults(settings),
        trusted_keys=settings.trusted_keys,
        observer=observation.observer,
        merging=_merging(settings, str(backbone), base.digest, engine, store.merged),
    )
    observation.watch(serving)
    trail = await asyncio.to_thread(
        AuditTrail, store, settings.cache_dir / "audit", registry_tellers(store) | serving_tellers()
    )
    # One for both listeners: whoever is held back on one is on the other.
    door = Door(Keyring(store, settings.operator_key_file, trail.keys_changed), settings.auth_failures_per_minute)
    tls = tls_files(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    rpc = await build_server(
        authenticator=door,
        host=settings.host,
        port=settings.port,
        service_names=[SERVICE, REGISTRY],
        tls=tls,
        observers=observation.calls,
        trail=trail,
    )
    serving_pb2_grpc.add_ServingServiceServicer_to_server(ServingServicer(serving, _teller(serving, rpc)), rpc.server)
    staging = settings.cache_dir / "staging"
    await asyncio.to_thread(clear_staging, staging)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(
        RegistryServicer(store, base, staging, trail=trail), rpc.server
    )
    probed = Probed(
        serving.readiness, observation.registry, observation.lag, door if settings.metrics_need_key else None
    )
    http = None
    if settings.http_port >= 0:
        routers = [OpenAIRoutes(serving, engine, door).router, health_router(probed)]
        app = ObservedHttp(create_app(routers), observation.calls, (*PATHS, *OPENAI_PATHS))
        http = HttpServer(app, settings.http_host, settings.http_port, tls, _GRACE_SECONDS)
    return serving, engine, rpc, http, trail


def _teller(serving: Serving, rpc: RpcServer) -> Callable[[], Awaitable[None]]:
    """What tells gRPC's health whether requests can succeed: one after the other, so that what is told last is how it is."""
    lock = asyncio.Lock()

    async def tell() -> None:
        async with lock:
            await rpc.set_serving(serving.readiness().ready, "", SERVICE)

    return tell


def _with_slots(settings: ServingSettings, base: BaseInfo) -> ServingSettings:
    """Settles how many slots there are, where that is left to the service."""
    if settings.max_loras:
        return settings
    slots = slots_for(
        base.modules,
        names=settings.lora_layers,
        rank=settings.max_lora_rank,
        budget=settings.slot_budget_bytes,
        most=settings.max_num_seqs,
    )
    return settings.model_copy(update={"max_loras": slots})


def _merging(
    settings: ServingSettings, backbone: str, base_digest: str, engine: "VllmEngine", store: MergedStore
) -> Merging | None:
    from serving_service.engine.merged_engines import VllmMergedEngines

    if not settings.merged_budget_bytes:
        return None
    return Merging(
        engines=VllmMergedEngines(backbone, base_digest, settings, engine),
        folder=settings.cache_dir / "merged",
        budget_bytes=settings.merged_budget_bytes,
        count=settings.max_merged,
        start_seconds=settings.merged_start_seconds,
        auto=AutoRules(settings.merged_auto_tokens_per_minute, settings.merged_auto_changes_per_hour),
        # Nobody signs merged weights: a service that trusts signatures only makes its own, of versions that it has checked.
        store=None if settings.trusted_keys else store,
    )


def _admission(settings: ServingSettings) -> AdmissionLimits:
    return AdmissionLimits(
        running=settings.max_num_seqs,
        newcomers=settings.newcomer_seqs,
        waiting=settings.max_waiting,
        adapters=min(settings.max_loras, settings.adapters_in_flight),
        in_flight=settings.adapters_in_flight,
        overtakes=settings.max_overtakes,
        overtake_seconds=settings.max_overtake_seconds,
        fair=settings.fair_order,
    )


def _tenant_defaults(settings: ServingSettings) -> TenantPolicy:
    return TenantPolicy(
        requests_per_minute=settings.default_requests_per_minute,
        tokens_per_minute=settings.default_tokens_per_minute,
        concurrency=settings.default_concurrency,
        queue_length=settings.default_queue_length,
    )


def main() -> int:
    """Reads the settings and runs; returns the exit code."""
    try:
        settings = ServingSettings.from_command(sys.argv[1:], "python -m serving_service")
    except ConfigError as error:
        configure_logs("serving")
        log.error(str(error))
        return 2
    configure_logs("serving", settings.log_level)
    try:
        with hold_folder(settings.cache_dir, "GRAFT_SERVING_CACHE_DIR"), own_temporary_files(settings.cache_dir):
            return uvloop.run(serve(settings))
    except (GraftError, OSError) as error:
        log.error("cannot serve", cause=str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
