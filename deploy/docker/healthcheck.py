#!/usr/bin/env python3
"""Tells by its exit code whether the service in this container is ready: 0, or 1 and the reason on standard error.

usage: graft-healthcheck [serving|trainer|console] [--alive]
Without a name: the service whose settings the environment has. Owns nothing but the question: addresses and TLS files are
those that the service itself was given. `--alive` asks whether it runs, not whether it is ready.

Certificates' names are not checked: the question goes to this container's own loopback address, whatever name clients use.
"""

import os
import socket
import ssl
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection

TIMEOUT_S = 4.0


def main() -> int:
    """Asks; returns the exit code."""
    words = [word for word in sys.argv[1:] if word != "--alive"]
    checks = {"serving": _serving, "trainer": _trainer, "console": _console}
    name = words[0] if words else _own_service()
    if name not in checks:
        print(f"no service {name!r} here: {', '.join(checks)}", file=sys.stderr)
        return 2
    try:
        checks[name]("--alive" in sys.argv)
    except (OSError, HTTPException, Unready) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


class Unready(Exception):
    """The service answers, and says no."""


def _own_service() -> str:
    variables = {"serving": "GRAFT_SERVING_CACHE_DIR", "trainer": "GRAFT_TRAINER_STATE_DIR"}
    found = [name for name, variable in variables.items() if os.environ.get(variable)]
    return found[0] if found else "console"


def _serving(alive: bool) -> None:
    _http("SERVING", int(os.environ["GRAFT_SERVING_HTTP_PORT"]), "/healthz" if alive else "/readyz")


def _trainer(alive: bool) -> None:
    if alive and (port := os.environ.get("GRAFT_TRAINER_METRICS_PORT")):
        _ask(HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S), "/metrics")
        return
    port = int(os.environ["GRAFT_TRAINER_PORT"])
    if os.environ.get("GRAFT_TRAINER_TLS_CERTIFICATE"):
        # Its port is open exactly while it serves; a handshake would need the name that its certificate is for.
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S).close()
        return
    from graftwork.client.channel import Channel

    channel = Channel(f"127.0.0.1:{port}", None)
    try:
        if not channel.is_serving(TIMEOUT_S):
            raise Unready("does not serve")
    finally:
        channel.close()


def _console(alive: bool) -> None:
    _http("CONSOLE", int(os.environ["GRAFT_CONSOLE_PORT"]), "/healthz")


def _http(service: str, port: int, path: str) -> None:
    certificate, key = (os.environ.get(f"GRAFT_{service}_TLS_{name}") for name in ("CERTIFICATE", "KEY"))
    if not certificate:
        _ask(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S), path)
        return
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(certificate, key)  # shown only where the service asks for one (mTLS)
    _ask(HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=context), path)


def _ask(connection: HTTPConnection, path: str) -> None:
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(2000)
        if answer.status != 200:
            raise Unready(f"{path} answers {answer.status}: {body.decode(errors='replace')}")
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
