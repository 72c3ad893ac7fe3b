"""`python -m graftwork.console`: binds, says where, and serves until it is told to end."""

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator

import structlog
import uvicorn

from graftwork.config import ConfigError, ConfigFile
from graftwork.config.apply import apply_file
from graftwork.console.app import create_app
from graftwork.console.settings import ConsoleSettings
from graftwork.errors import GraftError
from graftwork.logs import configure_logs
from graftwork.rpc.server import write_address_file

_DRAIN_S = 2
"""Live pages would otherwise hold the end up; their browsers reconnect."""
_MAX_CONNECTIONS = 1000
_BACKLOG = 128
log = structlog.get_logger()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends with exit code 0 on a signal; uvicorn's own would raise it once more after its work is done."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield


def bind(host: str, port: int) -> socket.socket:
    """Listens. Raises OSError, with the address in its text, when it is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(_BACKLOG)  # here, so that whoever reads the address file is answered
    except OSError as error:
        made.close()
        raise OSError(f"the console cannot listen on {host}:{port}: {error.strerror}; choose another port") from None
    return made


def serve(settings: ConsoleSettings, listening: socket.socket) -> None:
    """Serves pages until SIGINT or SIGTERM.

    Args:
        settings: of the console.
        listening: from `bind`.

    Raises:
        TlsIncomplete: a certificate without its key.
    """
    tls = settings.tls()
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        log_level="error",  # the guard's own lines say who asked for what
        access_log=False,
        ws="none",
        server_header=False,
        proxy_headers=False,  # the guard takes from them what it may believe
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_DRAIN_S,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=str(tls.key) if tls else None,
    )
    host, port = listening.getsockname()[:2]
    if settings.address_file:
        write_address_file(settings.address_file, host, port)
    log.info("listening", address=f"{host}:{port}", tls=tls is not None)
    _Server(config).run(sockets=[listening])
    log.info("stopped")


def main() -> int:
    """Returns the exit code: 0, or 1 with the cause in the log, 2 for wrong settings."""
    try:
        settings = ConsoleSettings.from_command(sys.argv[1:], "python -m graftwork.console")
        apply_file(ConfigFile.chosen())  # the client's certificate, which clients read from the environment
    except ConfigError as error:
        configure_logs("console")
        log.error("cannot serve", cause=str(error))
        return 2
    configure_logs("console", settings.log_level)
    try:
        serve(settings, bind(settings.host, settings.port))
    except (GraftError, OSError) as error:
        log.error("cannot serve", cause=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
