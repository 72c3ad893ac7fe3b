"""What every command needs: where the services are, which key to use, and how to print.

Owns the global options and the output's two forms, tables for people (standard error carries progress) and one JSON value
with `--json`. Does not own any command.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from graftwork.client import Client
from graftwork.client.channel import tls_ca, tls_identity
from graftwork.client.errors import NOWHERE
from graftwork.config.file import ConfigFile
from graftwork.errors import ErrorCode, GraftError
from graftwork.local.errors import NotRunning
from graftwork.local.home import Home, ServiceName

_UNBOUNDED = 10_000  # columns; wider than any table
_SHORT = 26  # characters of a cell that is never broken over lines: ids and digests' beginnings must stay readable


class NotOne(GraftError):
    """The first characters of an id fit none, or several."""

    code: ClassVar[ErrorCode] = ErrorCode.NOT_FOUND


@dataclass(slots=True)
class Session:
    """One run of `graft`.

    Attributes:
        home: of the local services.
        as_json: print one JSON value instead of tables.
        config: the settings file; empty when there is none.
        origins: where variables come from that the file or --set put into this process's environment, for people.
        out: for results. err: for progress and notes.
    """

    home: Home
    as_json: bool = False
    config: ConfigFile = field(default_factory=ConfigFile)
    origins: dict[str, str] = field(default_factory=dict)
    out: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))

    def address(self, service: ServiceName) -> str:
        """Returns the service's address: GRAFT_TRAINER / GRAFT_SERVING, else what the home knows.

        Raises:
            NotRunning: neither knows one.
        """
        found = os.environ.get(f"GRAFT_{service.name}") or self.home.address(service)
        if not found:
            raise NotRunning(
                f"no {service.value} service is up for {self.home.root}: start it with `graft up`, "
                f"or name another home with --home"
            )
        return found

    def api_key(self) -> str | None:
        """GRAFT_API_KEY, else the home's operator key."""
        return os.environ.get("GRAFT_API_KEY") or self.home.operator_key()

    def client(self, *, needs_both: bool = False) -> Client:
        """Connects. A command that uses one service only does not fail because the other one is away."""
        addresses = {}
        for service in ServiceName:
            try:
                addresses[service] = self.address(service)
            except NotRunning:
                if needs_both:
                    raise
                addresses[service] = ""
        if not any(addresses.values()):
            self.address(ServiceName.TRAINER)
        return Client(
            addresses[ServiceName.TRAINER] or f"{NOWHERE}trainer",
            addresses[ServiceName.SERVING] or f"{NOWHERE}serving",
            self.api_key(),
            tls_ca(),
            tls_identity(),
        )

    def tenant(self, given: str | None) -> str:
        """Returns the tenant to act for; a tenant's key names its own.

        Raises:
            typer.BadParameter: an operator's key and no --tenant.
        """
        if given:
            return given
        key = os.environ.get("GRAFT_API_KEY", "")
        if key.startswith("gw_") and key.count("_") == 2:
            return key.split("_")[1]
        raise typer.BadParameter("name the tenant with --tenant (only a tenant's own key implies one)")

    def show(self, value: Any, table: RenderableType | None = None) -> None:
        """Prints a result: `value` as JSON with --json, else `table`."""
        if self.as_json:
            self.out.print_json(json.dumps(to_plain(value)), indent=2)
        elif isinstance(table, Table):
            _print_whole(self.out, table)
        elif table is not None:
            self.out.print(table)

    def say(self, text: RenderableType) -> None:
        """Prints a part of a result that has several; nothing with --json."""
        if not self.as_json:
            self.out.print(text, markup=False)

    def show_table(self, table: Table) -> None:
        """Prints a table as part of a result; with --json, where `show` prints the result, to standard error."""
        _print_whole(self.err if self.as_json else self.out, table)

    def tenant_or_none(self, given: str | None) -> str:
        """Returns the tenant for calls that show nothing of any tenant: any name will do for an operator."""
        try:
            return self.tenant(given)
        except typer.BadParameter:
            return "anyone"

    def note(self, text: str) -> None:
        """Prints a line for people; silent with --json."""
        if not self.as_json:
            self.err.print(text, markup=False)


def _print_whole(console: Console, table: Table) -> None:
    """Rich crops what does not fit, and half an id is no id: a narrow terminal wraps the line instead."""
    least = Measurement.get(console, console.options.update(max_width=_UNBOUNDED), table).minimum
    console.width = max(console.width, least)
    console.print(table)


def to_plain(value: Any) -> Any:
    """Protobuf messages and lists of them as JSON values, with the protocol's own field names."""
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> Table:
    """A table for people; numbers are aligned right, `Text` keeps its colours."""
    made = Table(title=title, header_style="bold", box=None, pad_edge=False, title_justify="left")
    cells = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        short = all(len(row[index]) <= _SHORT for row in cells)
        made.add_column(
            column,
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=short,
            min_width=max([len(column), *(len(cell[index]) for cell in cells)]) if short else None,
        )
    for row, written in zip(rows, cells, strict=True):
        made.add_row(*(cell if isinstance(cell, Text) else text for cell, text in zip(row, written, strict=True)))
    return made


def last_id(name: str) -> str:
    """The last segment of a resource name."""
    return name.rsplit("/", 1)[-1]


def session_of(context: typer.Context) -> Session:
    """The session that the main callback made."""
    session = context.obj
    assert isinstance(session, Session)
    return session
