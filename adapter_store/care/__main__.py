"""`python -m adapter_store.care gc|check|copy|release`: what `graft store` runs, with JSON lines on standard output (`report`).

Exit 0 when all is well, 1 when something is damaged or could not be done (the last line says why), 2 for wrong usage. Owns the process:
arguments, opening of stores, the end on a signal.
"""

import argparse
import getpass
import os
import signal
import socket
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from adapter_store.audit import Audit, AuditEntry, changes_of, new_id, now
from adapter_store.backends.open import open_backend
from adapter_store.backends.probe import probe
from adapter_store.backends.protocol import Backend
from adapter_store.care.check import check
from adapter_store.care.collect import collect, summary
from adapter_store.care.copy import copy
from adapter_store.care.report import Lines
from adapter_store.care.round import GRACE, LEAST_GRACE
from adapter_store.errors import InvalidLimit, NotFound, StoreMisconfigured
from adapter_store.holds import Holds
from adapter_store.names import parse_id
from adapter_store.publishing import LIMIT
from graftwork.errors import GraftError


def gc(options: argparse.Namespace, lines: Lines) -> dict[str, Any]:
    """Collects garbage."""
    grace = timedelta(seconds=options.grace_seconds)
    if grace < LEAST_GRACE:
        raise InvalidLimit(
            f"a grace time of {_hours(grace)} is too short: what is being published looks like an orphan until it is, and that "
            f"may take {_hours(LIMIT)}; give {_hours(LEAST_GRACE)} or more"
        )
    backend = _existing(options.store)
    if not options.dry_run:
        probe(backend)
    found = summary(collect(backend, lines, grace=grace, dry_run=options.dry_run, parallel=options.parallel))
    if not options.dry_run:
        _note(backend, "CollectGarbage", "", [(name, "", str(value)) for name, value in found.items()])
    return found


def fsck(options: argparse.Namespace, lines: Lines) -> dict[str, Any]:
    """Checks a store."""
    return check(_existing(options.store), lines, deep=options.deep, parallel=options.parallel)


def replicate(options: argparse.Namespace, lines: Lines) -> dict[str, Any]:
    """Copies a store."""
    source = _existing(options.source)
    destination = open_backend(options.destination)
    probe(destination)
    return copy(source, destination, lines, parallel=options.parallel).plain()


def release(options: argparse.Namespace, lines: Lines) -> dict[str, Any]:
    """Ends a job's hold on its data sets."""
    tenant, job = parse_id("tenant", options.tenant), parse_id("job", options.job)
    backend = _existing(options.store)
    record = Holds(backend).release(tenant, job, by="graft store release")
    if record is None:
        raise NotFound(f"job {job} of tenant {tenant} holds nothing")
    _note(backend, "ReleaseHold", f"tenants/{tenant}/jobs/{job}", [("hold", ", ".join(record.datasets), "")], tenant)
    return {"tenant": tenant, "job": job, "datasets": list(record.datasets)}


def _note(
    backend: Backend, action: str, target: str, changes: Sequence[tuple[str, object, object]], tenant: str = ""
) -> None:
    """Leaves an entry in the audit log: who runs this has the store's own credentials, and no key."""
    entry = AuditEntry(
        id=new_id(),
        at=now(),
        service=f"graft store on {socket.gethostname()}",
        actor=f"system user {_user()}",
        action=action,
        target=target,
        tenant=tenant,
        outcome="ok",
        changes=changes_of(changes),
    )
    Audit(backend).append(entry)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())


def main(arguments: list[str]) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    lines = Lines(sys.stdout)
    try:
        lines.result(options.run(options, lines))
    except KeyboardInterrupt:
        lines.error("interrupted; run it again, and it goes on")
        return 130
    except (GraftError, OSError) as error:
        lines.error(str(error))
        return 1
    return 0


def _hours(time: timedelta) -> str:
    return f"{time.total_seconds() / 3600:g}h"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _existing(url: str) -> Backend:
    """Opens a store that must be there; opening one on the file system would make it."""
    parts = urlsplit(url)
    if parts.scheme == "file" and not Path(unquote(parts.path)).is_dir():
        raise StoreMisconfigured(f"there is no store at {url}; name it with --store")
    return open_backend(url)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="adapter_store.care")
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: object) -> argparse.ArgumentParser:
        made = commands.add_parser(name)
        made.set_defaults(run=run)
        made.add_argument("--parallel", type=int, choices=range(1, 65), metavar="1..64", default=8)
        return made

    collecting, checking, releasing = command("gc", gc), command("check", fsck), command("release", release)
    for made in (collecting, checking, releasing):
        made.add_argument("--store", required=True)
    collecting.add_argument("--grace-seconds", type=float, default=GRACE.total_seconds())
    collecting.add_argument("--dry-run", action="store_true")
    checking.add_argument("--deep", action="store_true")
    releasing.add_argument("--tenant", required=True)
    releasing.add_argument("--job", required=True)
    copying = command("copy", replicate)
    copying.add_argument("source")
    copying.add_argument("destination")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
