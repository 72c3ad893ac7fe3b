"""uvicorn inside our process and on our loop: bound before it starts, silent, and without signal handlers of its own.

Owns the life of the HTTP listener. Does not own the application.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from graftwork.rpc.tls import Certificates, TlsFiles
from serving_service.api.http.head_deadline import HeadDeadline

_KEEP_ALIVE_SECONDS = 30
_BACKLOG = 512


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `__main__`: uvicorn would take them from it, and stop before requests have drained."""
        yield


class HttpServer:
    """A bound, not yet started HTTP server.

    Args:
        app: what it serves.
        host: address to listen on.
        port: 0 takes any free port.
        tls: PEM files, read again when they change; None serves plain text.
        drain_seconds: how long streams may go on once it stops.

    Raises:
        OSError: the address is taken or not ours.
        TlsUnusable: the PEM files cannot be used.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, tls: TlsFiles | None, drain_seconds: float) -> None:
        context = Certificates(tls).http_context() if tls else None
        try:
            # Bound here: of a taken port uvicorn would end the process.
            self._socket = _listen(host, port)
        except OSError as error:
            raise OSError(
                f"cannot listen on {host}:{port} ({error.strerror}): stop what has the port, or set another "
                "GRAFT_SERVING_HTTP_PORT (0 takes any free one)"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=HeadDeadline,
            log_config=None,
            log_level="critical",  # ours says who called what; uvicorn's would show the client's path
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(drain_seconds)),
            # Its own context would keep the first certificate for ever.
            ssl_context_factory=(lambda config, default: context) if context else None,
        )
        self._server = _Quiet(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to answer."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="http")

    def stop_accepting(self) -> None:
        """Takes no new connection; what is under way goes on."""
        self._server.should_exit = True

    async def stop(self) -> None:
        """Waits until what is under way has ended, at most `drain_seconds`."""
        self.stop_accepting()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    """Binds with the protocol named: asyncio switches Nagle's algorithm off only where it is, and with it each first event
    of a stream would wait 40 ms for the client's acknowledgement of the head."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.bind((host, port))
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made
