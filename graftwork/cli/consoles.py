"""`graft console`: the web console in the foreground, and where the one of `graft up` is.

The console's own packages are imported when it is started: the command itself stays light.
"""

import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.session import Session, session_of
from graftwork.errors import ErrorCode, GraftError
from graftwork.local.home import Home, ServiceName

_ASK_S = 2.0


class NoConsole(GraftError):
    """The console cannot be started here."""

    code = ErrorCode.PRECONDITION


def console(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(envvar="GRAFT_CONSOLE_HOST", help="Other than this machine's own: needs TLS.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="GRAFT_CONSOLE_PORT", min=0, max=65535, help="0 takes any free port.")
    ] = 0,
) -> None:
    """Serve the web console until Ctrl-C; `graft up` starts one too, and `graft status` says where."""
    session = session_of(context)
    try:
        from graftwork.console.__main__ import bind, serve
        from graftwork.console.settings import ConsoleSettings
        from graftwork.logs import configure_logs
    except ModuleNotFoundError as error:
        raise NoConsole(f"the console needs {error.name}: pip install 'graftwork[console]'") from None
    given = _given(session, host, port)
    settings = ConsoleSettings.checked(given, {name: f"{name} of the console" for name in given})
    listening = bind(settings.host, settings.port)
    configure_logs("console", settings.log_level)
    at = listening.getsockname()[1]
    url = f"{'https' if settings.tls_certificate else 'http'}://{_in_url(settings.host)}:{at}"
    session.note(
        f"sign in with an operator's key ({session.home.operator_key_file}) or a tenant's; Ctrl-C ends the console"
    )
    session.show({"console": url}, url)
    serve(settings, listening)


def console_url(home: Home) -> str | None:
    """Returns where the home's console is, None when there is none."""
    address = home.console_address()
    scheme = "https" if os.environ.get("GRAFT_CONSOLE_TLS_CERTIFICATE") else "http"
    return f"{scheme}://{address}" if address else None


def console_state(session: Session) -> dict[str, str | bool | None]:
    """Asks the home's console whether it answers."""
    url = console_url(session.home)
    if url is None:
        return {"address": None, "ready": False}
    # Its own certificate says nothing to us here: we only ask whether it lives, and send nothing.
    lenient = ssl.create_default_context()
    lenient.check_hostname, lenient.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=lenient))
    try:
        with opener.open(f"{url}/healthz", timeout=_ASK_S) as answer:
            return {"address": url, "ready": answer.status == 200}
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return {"address": url, "ready": False}


def _given(session: Session, host: str, port: int) -> dict[str, str | int | Path]:
    """What the command knows; everything else is GRAFT_CONSOLE_*."""
    given: dict[str, str | int | Path] = {"host": host, "port": port}
    for service in ServiceName:
        name = service.value
        if address := os.environ.get(f"GRAFT_{service.name}"):
            given[name] = address
        elif not os.environ.get(f"GRAFT_CONSOLE_{service.name}"):
            given[f"{name}_address_file"] = session.home.address_file(service)
    if ca := os.environ.get("GRAFT_TLS_CA"):
        given["tls_ca"] = Path(ca)
    return given


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
