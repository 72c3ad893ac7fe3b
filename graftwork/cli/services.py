"""`graft up`, `graft status`, `graft down`: the two services on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.session import Session, session_of, table
from graftwork.client.channel import Channel, tls_ca
from graftwork.client.errors import RemoteError
from graftwork.local.errors import AlreadyRunning, LocalError, NotRunning, StartFailed
from graftwork.local.fleet import Fleet, FleetSettings, last_words, running_pid, wait_until_down
from graftwork.local.home import ServiceName

READY_S = 300.0
"""How long `up --detach` waits: loading a large backbone takes minutes."""
_POLL_S = 0.2


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
    trainer_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 0,
    serving_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 0,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once both are ready; `graft down` stops them.")
    ] = False,
) -> None:
    """Start the trainer and the serving service with everything under one home folder; Ctrl-C ends both."""
    session = session_of(context)
    for name, port in (("--trainer-port", trainer_port), ("--serving-port", serving_port)):
        _check_free(name, port)
    if detach:
        _detach(session, backbone, store, trainer_port, serving_port)
        return
    settings = FleetSettings(backbone, store, trainer_port, serving_port)
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
    rows = [
        [name.value, state["address"] or "-", "ready" if state["ready"] else "not ready"]
        for name, state in found.items()
    ]
    session.show(
        {"home": str(session.home.root), "ready": ready} | {name.value: state for name, state in found.items()},
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
            rows.append(["operator key", str(self._session.home.operator_key_file)])
            self._session.show(
                {name.value: state["address"] for name, state in states.items()}
                | {"home": str(self._session.home.root)},
                table(("ready", f"home {self._session.home.root}"), rows),
            )


def _state(session: Session, service: ServiceName) -> dict[str, str | bool | None]:
    try:
        address = session.address(service)
    except NotRunning:
        return {"address": None, "ready": False}
    channel = Channel(address, None, tls_ca())
    try:
        return {"address": address, "ready": channel.is_serving()}
    except RemoteError:
        return {"address": address, "ready": False}
    finally:
        channel.close()


def _check_free(option: str, port: int) -> None:
    if not port:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTaken(
                f"port {port} is taken ({error.strerror}): free it, or choose another with {option} (0 = any)"
            ) from None


def _detach(session: Session, backbone: str, store: str | None, trainer_port: int, serving_port: int) -> None:
    session.home.prepare()
    if running_pid(session.home) is not None:
        raise AlreadyRunning(f"graft is already up for {session.home.root}: use it, or stop it with `graft down`")
    for service in ServiceName:  # those of a killed run: what still answers there is about to end
        session.home.address_file(service).unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "graftwork.cli.main",
        "--home",
        str(session.home.root),
        "up",
        "--backbone",
        backbone,
    ]
    command += ["--trainer-port", str(trainer_port), "--serving-port", str(serving_port)]
    command += ["--store", store] if store else []
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
    session.show(
        {"pid": process.pid} | {service.value: session.home.address(service) for service in ServiceName},
        table(("ready", f"home {session.home.root}"), [[s.value, session.home.address(s)] for s in ServiceName]),
    )
