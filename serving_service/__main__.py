"""`python -m serving_service`: binds, loads the engine, serves until a signal or the engine's death.

Exit 0 after SIGTERM or SIGINT, 1 when the engine died or the start failed, so that a supervisor restarts it. Owns the
process: signals, the order of start and stop, the choice of the real engine.
"""

import asyncio
import signal
import sys

import structlog
from pydantic import ValidationError

from adapter_store import open_store, read_base
from adapter_store.api.keyring import Keyring
from adapter_store.api.servicer import SERVICE_NAME as REGISTRY
from adapter_store.api.servicer import RegistryServicer
from adapter_store.registration import clear_staging
from graftwork.errors import GraftError
from graftwork.logs import configure_logs
from graftwork.process import hold_folder, wrong_settings
from graftwork.rpc.server import RpcServer, build_server, tls_files, write_address_file
from graftwork.v1 import registry_pb2_grpc, serving_pb2_grpc
from serving_service.api.servicer import ServingServicer
from serving_service.core.generation import PromptLimits
from serving_service.core.service import Serving
from serving_service.engine.protocol import Engine
from serving_service.settings import ServingSettings

SERVICE = "graftwork.v1.ServingService"
_GRACE_SECONDS = 2.0  # for streams to carry their last message once generation has drained

log = structlog.get_logger(__name__)


async def serve(settings: ServingSettings) -> int:
    """Serves until a signal or the engine's death; returns the exit code."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    serving, engine, rpc = await _build(settings)
    await rpc.server.start()
    if settings.address_file:
        write_address_file(settings.address_file, settings.host, rpc.port)
    log.info("bound", host=settings.host, port=rpc.port)

    asked = asyncio.create_task(stopping.wait(), name="signal")
    loading = asyncio.create_task(serving.start(), name="load")
    failed = False
    await asyncio.wait({asked, loading}, return_when=asyncio.FIRST_COMPLETED)
    if loading.done() and not asked.done():
        if error := loading.exception():
            log.error("the engine did not start", cause=str(error), exc_info=error)
            failed = True
        else:
            await rpc.set_serving(True)
            death = asyncio.create_task(engine.died(), name="engine death")
            await asyncio.wait({asked, death}, return_when=asyncio.FIRST_COMPLETED)
            if death.done() and not asked.done():
                log.error("the engine died", cause=death.result())
                failed = True
            death.cancel()
    log.info("stopping")
    await rpc.set_serving(False)
    await serving.stop(0.0 if failed else settings.drain_seconds)
    await rpc.server.stop(_GRACE_SECONDS)
    for task in (asked, loading):
        task.cancel()
    await asyncio.gather(asked, loading, return_exceptions=True)
    log.info("stopped", failed=failed)
    return 1 if failed else 0


async def _build(settings: ServingSettings) -> tuple[Serving, Engine, RpcServer]:
    from serving_service.engine.backbone import local_folder
    from serving_service.engine.vllm_engine import VllmEngine

    store = await asyncio.to_thread(open_store, settings.store_url)
    backbone = await asyncio.to_thread(local_folder, settings.backbone)
    engine = VllmEngine(str(backbone), settings)
    base = await asyncio.to_thread(read_base, backbone)
    serving = Serving(
        store=store,
        base=base,
        engine=engine,
        cache_dir=settings.cache_dir / "adapters",
        disk_budget_bytes=settings.disk_budget_bytes,
        max_lora_rank=settings.max_lora_rank,
        limits=PromptLimits(settings.max_prompt_bytes, settings.max_messages),
        trusted_keys=settings.trusted_keys,
    )
    rpc = await build_server(
        authenticator=Keyring(store, settings.operator_key_file),
        host=settings.host,
        port=settings.port,
        service_names=[SERVICE, REGISTRY],
        tls=tls_files(settings.tls_certificate, settings.tls_key, settings.tls_client_ca),
    )
    serving_pb2_grpc.add_ServingServiceServicer_to_server(ServingServicer(serving), rpc.server)
    staging = settings.cache_dir / "staging"
    await asyncio.to_thread(clear_staging, staging)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(RegistryServicer(store, base, staging), rpc.server)
    return serving, engine, rpc


def main() -> int:
    """Reads the settings and runs; returns the exit code."""
    try:
        settings = ServingSettings()  # type: ignore[call-arg]  # from the environment
    except ValidationError as error:
        configure_logs("serving")
        log.error(wrong_settings(error, "GRAFT_SERVING_"))
        return 2
    configure_logs("serving", settings.log_level)
    try:
        with hold_folder(settings.cache_dir, "GRAFT_SERVING_CACHE_DIR"):
            return asyncio.run(serve(settings))
    except (GraftError, OSError) as error:
        log.error("cannot serve", cause=str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
