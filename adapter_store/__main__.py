"""`python -m adapter_store`: RegistryService alone, for machines that neither train nor serve.

Exit 0 after SIGTERM or SIGINT, 1 when the start failed, 2 for wrong settings. Owns the process; needs no torch.
"""

import asyncio
import fcntl
import os
import signal
import sys

import structlog

from adapter_store.api.audit_registry import registry_tellers
from adapter_store.api.audit_trail import AuditTrail
from adapter_store.api.keyring import Keyring
from adapter_store.api.servicer import SERVICE_NAME, RegistryServicer
from adapter_store.base import read_base
from adapter_store.registration import clear_staging
from adapter_store.settings import RegistrySettings
from adapter_store.store import open_store
from graftwork import backbone
from graftwork.config import ConfigError
from graftwork.errors import GraftError
from graftwork.late_lines import flush
from graftwork.logs import configure_logs
from graftwork.rpc.door import Door
from graftwork.rpc.metrics_port import Exposed, expose_metrics
from graftwork.rpc.server import build_server, write_address_file
from graftwork.rpc.tls import tls_files
from graftwork.signing import SigningKey
from graftwork.v1 import registry_pb2_grpc

_GRACE_SECONDS = 2.0  # for calls in flight when the service stops

log = structlog.get_logger(__name__)


async def serve(settings: RegistrySettings, metrics: Exposed) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        GraftError: the store or the backbone cannot be used.
        OSError: the address is taken.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = await asyncio.to_thread(open_store, settings.store_url)
    base = await asyncio.to_thread(read_base, backbone.resolve(settings.backbone))
    if settings.signing_key_file:
        SigningKey.load(settings.signing_key_file)  # a wrong one shows now, not with the first adapter
    staging = settings.state_dir / "staging"
    await asyncio.to_thread(clear_staging, staging)
    trail = await asyncio.to_thread(AuditTrail, store, settings.state_dir / "audit", registry_tellers(store))
    keyring = Keyring(store, settings.operator_key_file, trail.keys_changed)
    rpc = await build_server(
        authenticator=Door(keyring, settings.auth_failures_per_minute),
        host=settings.host,
        port=settings.port,
        service_names=[SERVICE_NAME],
        tls=tls_files(settings.tls_certificate, settings.tls_key, settings.tls_client_ca),
        observers=metrics.observers,
        trail=trail,
    )
    registry = RegistryServicer(store, base, staging, settings.signing_key_file, trail)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, rpc.server)
    await rpc.server.start()
    await rpc.set_serving(True)
    if settings.address_file:
        write_address_file(settings.address_file, settings.host, rpc.port)
    log.info("serving", host=settings.host, port=rpc.port, metrics_port=metrics.port, base=base.digest)
    await stop.wait()
    await rpc.set_serving(False)
    await rpc.server.stop(_GRACE_SECONDS)
    await asyncio.to_thread(trail.close)
    flush()
    log.info("stopped")


def main() -> int:
    """Reads the settings and runs; returns the exit code."""
    try:
        settings = RegistrySettings.from_command(sys.argv[1:], "python -m adapter_store")
    except ConfigError as error:
        sys.stderr.write(f"adapter_store: {error}\n")
        return 2
    configure_logs("registry", settings.log_level)
    handle = -1
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(settings.state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # A second registry on the folder would remove what the first is taking in; the kernel lets go when we end.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with expose_metrics(settings.metrics_host, settings.metrics_port) as metrics:
            asyncio.run(serve(settings, metrics))
    except BlockingIOError:
        log.error("cannot serve", cause=f"another registry uses {settings.state_dir}; set GRAFT_REGISTRY_STATE_DIR")
        return 1
    except (GraftError, OSError) as error:
        log.error("cannot serve", cause=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
