"""`graft up`, `graft status`, `graft down`: the two services on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any

import typer

from graftwork.cli.configured import Words, checked
from graftwork.cli.consoles import console_state, console_url
from graftwork.cli.session import Session, session_of, table
from graftwork.client.channel import Channel, tls_ca, tls_identity
from graftwork.client.errors import RemoteError
from graftwork.errors import GraftError
from graftwork.local.environment import FleetSettings
from graftwork.local.errors import AlreadyRunning, LocalError, NotRunning, StartFailed
from graftwork.local.fleet import Fleet, forget_address, last_words, running_pid, wait_until_down
from graftwork.local.home import ServiceName
from graftwork.v1 import serving_pb2, serving_pb2_grpc

READY_S = 300.0
"""How long `up --detach` waits: loading a large backbone takes minutes."""
_POLL_S = 0.2
_ASK_S = 2.0  # that a service may take to say how it is
_HTTP = "openai api"


class PortTaken(LocalError):
    """Somebody else listens where a service should."""


def up(
    context: typer.Context,
    backbone: Annotated[
        str, typer.Option(envvar="GRAFT_BACKBONE", help="graft-mini, a folder, or a Hugging Face id.")
    ] = "graft-mini",
    store: Annotated[
        str | None,
        typer.Option(
            envvar="GRAFT_STORE_URL", help="file:///... or s3://bucket/prefix?endpoint=...; default: under the home."
        ),
    ] = None,
    trainer_port: Annotated[
        int, typer.Option(envvar="GRAFT_TRAINER_PORT", min=0, max=65535, help="0 takes any free port.")
    ] = 0,
    serving_port: Annotated[
        int, typer.Option(envvar="GRAFT_SERVING_PORT", min=0, max=65535, help="0 takes any free port.")
    ] = 0,
    http_port: Annotated[
        int,
        typer.Option(
            envvar="GRAFT_SERVING_HTTP_PORT", min=-1, max=65535, help="Of the OpenAI-compatible API; -1: without it."
        ),
    ] = 0,
    console_port: Annotated[
        int, typer.Option(envvar="GRAFT_CONSOLE_PORT", min=-1, max=65535, help="Of the web console; -1: without it.")
    ] = 0,
    words: Words = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once both are ready; `graft down` stops them.")
    ] = False,
) -> None:
    """Start the trainer and the serving service with everything under one home folder; Ctrl-C ends both."""
    session = session_of(context)
    settings = FleetSettings(backbone, store, trainer_port, serving_port, http_port, console_port, session.config)
    for name, port in _ports(settings).items():
        _check_free(name, port)
    checked(session, settings)
    if detach:
        _detach(session, settings)
        return
    fleet = Fleet(session.home, settings, lambda line: session.err.print(line, markup=False))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, fleet.stop)
    announcer = _Announcer(session)
    fleet.on_poll = announcer.poll
    fleet.run()
    session.note("both services have ended")


def status(
    context: typer.Context,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until both are ready.")] = 0,
) -> None:
    """Show whether both services are ready; exit code 0 only when they are."""
    session = session_of(context)
    deadline = time.monotonic() + wait
    with session.err.status("waiting for the services") if wait and not session.as_json else _Quiet():
        while True:
            found = {service: _state(session, service) for service in ServiceName}
            ready = all(state["ready"] for state in found.values())
            if ready or time.monotonic() >= deadline:
                break
            time.sleep(_POLL_S)
    serving = found[ServiceName.SERVING]["address"]
    parts = _serving_parts(session, str(serving)) if serving else {}
    rows = [
        [name.value, state["address"] or "-", "ready" if state["ready"] else "not ready"]
        for name, state in found.items()
    ]
    if http := session.home.http_address():
        rows.append([_HTTP, _url(http), rows[-1][-1]])
    rows += [["", f"  {part}", _told(state)] for part, state in parts.items()]
    console = console_state(session)
    if console["address"]:
        rows.append(["console", console["address"], "ready" if console["ready"] else "not ready"])
    session.show(
        {"home": str(session.home.root), "ready": ready}
        | {name.value: state for name, state in found.items()}
        | {"http": _url(http) if http else None, "console": console}
        | ({"serving_parts": parts} if parts else {}),
        table(("service", "address", "state"), rows),
    )
    if not ready:
        raise typer.Exit(1)


def down(context: typer.Context) -> None:
    """Stop the services of this home and wait until they have ended."""
    session = session_of(context)
    pid = running_pid(session.home)
    if pid is None:
        raise NotRunning(f"nothing is up for {session.home.root}")
    os.kill(pid, signal.SIGTERM)
    with session.err.status("stopping") if not session.as_json else _Quiet():
        wait_until_down(session.home)
    session.show({"stopped": pid}, "stopped")


class _Quiet:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class _Announcer:
    """Tells once, when both services are ready, where they listen."""

    def __init__(self, session: Session) -> None:
        self._session, self._next, self._done = session, 0.0, False

    def poll(self) -> None:
        now = time.monotonic()
        if self._done or now < self._next:
            return
        self._next = now + 1.0
        states = {service: _state(self._session, service) for service in ServiceName}
        if all(state["ready"] for state in states.values()):
            self._done = True
            rows = [[name.value, str(state["address"])] for name, state in states.items()]
            http = self._session.home.http_address()
            rows += [[_HTTP, _url(http)]] if http else []
            console = console_url(self._session.home)
            rows += [["console", console]] if console else []
            rows.append(["operator key", str(self._session.home.operator_key_file)])
            self._session.show(
                {name.value: state["address"] for name, state in states.items()}
                | {"http": _url(http) if http else None, "console": console}
                | {"home": str(self._session.home.root)},
                table(("ready", f"home {self._session.home.root}"), rows),
            )


def _state(session: Session, service: ServiceName) -> dict[str, str | bool | None]:
    try:
        address = session.address(service)
    except NotRunning:
        return {"address": None, "ready": False}
    channel = Channel(address, None, tls_ca(), tls_identity())
    try:
        return {"address": address, "ready": channel.is_serving()}
    except RemoteError:
        return {"address": address, "ready": False}
    finally:
        channel.close()


def _serving_parts(session: Session, address: str) -> dict[str, serving_pb2.PartState]:
    """What the serving service says of its model, its store and its stopping; nothing when it does not answer."""
    channel = Channel(address, session.api_key(), tls_ca(), tls_identity())
    stub: Any = serving_pb2_grpc.ServingServiceStub(channel.channel)  # type: ignore[no-untyped-call]
    request = serving_pb2.GetServingInfoRequest()
    try:
        info = channel.call(stub.GetServingInfo, request, idempotent=False, timeout=_ASK_S)
    except GraftError:
        return {}
    finally:
        channel.close()
    return {"model": info.model, "store": info.store, "draining": info.draining}


def _told(part: serving_pb2.PartState) -> str:
    since = part.since.ToDatetime(UTC).astimezone().isoformat(sep=" ", timespec="seconds")
    return f"{part.state} since {since}" + (f": {part.cause}" if part.cause else "")


def _ports(settings: FleetSettings) -> dict[str, int]:
    return {
        "--trainer-port": settings.trainer_port,
        "--serving-port": settings.serving_port,
        "--http-port": settings.http_port,
        "--console-port": settings.console_port,
    }


def _url(address: str) -> str:
    """What an OpenAI client takes as its base URL."""
    scheme = "https" if os.environ.get("GRAFT_SERVING_TLS_CERTIFICATE") else "http"
    return f"{scheme}://{address}/v1"


def _check_free(option: str, port: int) -> None:
    if port <= 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTaken(
                f"port {port} is taken ({error.strerror}): free it, or choose another with {option} (0 = any)"
            ) from None


def _detach(session: Session, settings: FleetSettings) -> None:
    session.home.prepare()
    if running_pid(session.home) is not None:
        raise AlreadyRunning(f"graft is already up for {session.home.root}: use it, or stop it with `graft down`")
    for service in ServiceName:  # those of a killed run: what still answers there is about to end
        forget_address(session.home, service)
    command = [
        sys.executable,
        "-m",
        "graftwork.cli.main",
        "--home",
        str(session.home.root),
        "up",
        "--backbone",
        settings.backbone,
    ]
    command += [word for option, port in _ports(settings).items() for word in (option, str(port))]
    command += ["--store", settings.store_url] if settings.store_url else []
    log_file: Path = session.home.logs / "up.log"
    with log_file.open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + READY_S
    with session.err.status("starting both services") if not session.as_json else _Quiet():
        while not all(_state(session, service)["ready"] for service in ServiceName):
            if process.poll() is not None:
                raise StartFailed(last_words(log_file).removeprefix("graft: ") or f"its log {log_file} is empty")
            if time.monotonic() > deadline:
                process.terminate()
                raise StartFailed(f"not ready after {READY_S:g} s; see {session.home.logs}")
            time.sleep(_POLL_S)
    http = session.home.http_address()
    rows = [[service.value, session.home.address(service)] for service in ServiceName]
    rows += [[_HTTP, _url(http)]] if http else []
    console = console_url(session.home)
    rows += [["console", console]] if console else []
    session.show(
        {"pid": process.pid}
        | {service.value: session.home.address(service) for service in ServiceName}
        | {"http": _url(http) if http else None, "console": console},
        table(("ready", f"home {session.home.root}"), rows),
    )
