"""`graft config`: every setting with its value and where it comes from, whether all of them are right, and the reference.

Owns the commands. Does not own settings: a process of its own reads them (`graftwork.config.tell`).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from graftwork.cli.session import Session, session_of, table
from graftwork.config.apply import apply_words
from graftwork.config.errors import ConfigError
from graftwork.config.fields import measured
from graftwork.config.file import FILE_NAME
from graftwork.config.reference import example, reference
from graftwork.errors import ErrorCode, GraftError
from graftwork.local.console_process import environment as console_environment
from graftwork.local.environment import FleetSettings, environment, origins, unused

app = typer.Typer(no_args_is_help=True, help="Settings of all services: show, check, and the reference.")


class NotTold(GraftError):
    """The settings could not be read at all."""

    code = ErrorCode.INTERNAL


def take_words(context: typer.Context, words: list[str] | None) -> list[str]:
    """Applies --set before the other options look at their variables."""
    session = session_of(context)
    session.origins.update(apply_words(words or []))
    return words or []


Words = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        callback=take_words,
        is_eager=True,
        help="A setting for this once, as in serving.max_loras=8; may be repeated.",
    ),
]


@app.command()
def show(
    context: typer.Context,
    words: Words = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not at its default.")] = False,
) -> None:
    """Show every setting that `graft up` would start with, and where it comes from; secrets are left out."""
    session = session_of(context)
    told = ask(session, fleet_settings(session))
    listed = [
        one
        for one in told["settings"]  # of the registry alone, which `graft up` does not start, what somebody set
        if one["source"] != "default" or not (changed or one["section"] == "registry")
    ]
    if told["problems"] and not listed:
        raise ConfigError(told["problems"])
    rows = [
        [f"{one['section']}.{one['key']}", measured(str(one["value"]), one["unit"]), one["source"]] for one in listed
    ]
    session.show({"file": told["file"], "settings": listed}, table(("setting", "value", "from"), rows))
    session.note(
        f"file: {told['file']}" if told["file"] else f"no settings file; {session.home.root / FILE_NAME} would be read"
    )
    if told["problems"]:
        raise ConfigError(told["problems"])


@app.command()
def check(context: typer.Context, words: Words = None) -> None:
    """Say whether `graft up` could start with these settings; exit code 1 when not."""
    session = session_of(context)
    settings = fleet_settings(session)
    told = ask(session, settings)
    told["doubts"] += unused(session.home, settings)
    where = told.get("file") or "no settings file"
    session.show(
        {"file": told.get("file"), "problems": told["problems"], "doubts": told["doubts"]},
        # As text: what Rich would take for its marks, [serving], is the sections' names.
        Text(
            "\n".join(
                [f"wrong: {line}" for line in told["problems"]] + [f"doubtful: {line}" for line in told["doubts"]]
                or [f"all {len(told['settings'])} settings are right ({where})"]
            )
        ),
    )
    if told["problems"]:
        raise typer.Exit(1)


@app.command(name="reference")
def print_reference() -> None:
    """Print docs/configuration.md, made from the settings themselves."""
    sys.stdout.write(reference(defaults()))


@app.command(name="example")
def print_example() -> None:
    """Print a graft.toml with every setting at its default, commented out."""
    sys.stdout.write(example(defaults()))


def checked(session: Session, settings: FleetSettings) -> None:
    """Raises ConfigError unless the services could start with the settings; notes what is doubtful."""
    told = ask(session, settings)
    if told["problems"]:
        raise ConfigError(told["problems"])
    for line in told["doubts"] + unused(session.home, settings):
        session.note(f"doubtful: {line}")


def fleet_settings(session: Session) -> FleetSettings:
    """What `graft up` without options would be told."""
    ports = {
        "trainer_port": "GRAFT_TRAINER_PORT",
        "serving_port": "GRAFT_SERVING_PORT",
        "http_port": "GRAFT_SERVING_HTTP_PORT",
        "console_port": "GRAFT_CONSOLE_PORT",
    }
    return FleetSettings(
        backbone=os.environ.get("GRAFT_BACKBONE") or "graft-mini",
        store_url=os.environ.get("GRAFT_STORE_URL"),
        config=session.config,
        **{name: os.environ.get(variable) or 0 for name, variable in ports.items()},  # type: ignore[arg-type]  # checked there
    )


def ask(session: Session, settings: FleetSettings) -> dict[str, Any]:
    """Returns all settings, as the services of this home would see them, with problems and doubts."""
    made = environment(session.home, settings)
    marks = origins(session.home, settings) | session.origins
    console = console_environment(session.home, settings.console_port, os.environ.get("GRAFT_TLS_CA"))
    return _tell({**made, **console, "GRAFT_CONSOLE_PORT": str(max(0, settings.console_port))}, marks)


def defaults() -> list[dict[str, Any]]:
    """Returns all settings as they are when nobody sets any."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GRAFT_", "OTEL_"))}
    return list(_tell(clean, {})["settings"])


def _tell(environment: dict[str, str], marks: dict[str, str]) -> dict[str, Any]:
    root = Path(__file__).parents[2]  # where `graftwork` lies: a checkout need not be installed
    done = subprocess.run(
        [sys.executable, "-m", "graftwork.config.tell", json.dumps(marks)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NotTold(f"the settings of the services under {root} cannot be read: {lines[-1]}")
    return dict(json.loads(done.stdout))
