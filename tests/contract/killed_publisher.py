"""A publisher that is killed: `python -m tests.contract.killed_publisher STORE_URL BASE ADAPTER SIGNING_KEY`.

A line in, `WAY TENANT AT`: a process of its own publishes the adapter as TENANT/greeter, signs it and points the alias prod at
it, as WAY does (`registration` or `trainer`), and kills itself with SIGKILL before it touches the store for the AT-th time; 0
lets it live. A line out: its wait status. The processes are forks of this one, which has only imported things: a kill costs
milliseconds instead of an interpreter's start, and there are hundreds.

The touches are Python's own audit events, so they are as fine as they get: every open, link, rename, removal and new folder on
a disk, every piece of a request on a connection.
"""

import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from adapter_store import AdapterStore, BaseInfo, Provenance, read_base
from adapter_store.backends.open import open_backend
from adapter_store.manifest import VERSION_FILES
from adapter_store.registration import Registration
from trainer_service.core.recipe import Recipe
from trainer_service.core.worker_messages import WorkerSpec
from trainer_service.engine import publish

_TOUCHES = {"open", "os.link", "os.rename", "os.remove", "os.mkdir"}


def kill_at(at: int, place: str) -> None:
    """Arms this process: SIGKILL before its `at`-th touch of the store."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        on_disk = event in _TOUCHES and place.startswith("/") and place in str(arguments[0])
        if on_disk or event == "http.client.send":
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def register(store: AdapterStore, base: BaseInfo, tenant: str, folder: Path, key: Path) -> None:
    """As RegisterAdapter does."""
    files = [(name, (folder / name).stat().st_size) for name in VERSION_FILES]
    with (
        tempfile.TemporaryDirectory() as staging,
        Registration(
            *(store, base, Path(staging)),
            tenant=tenant,
            adapter="greeter",
            alias="prod",
            files=files,
            signing_key_file=key,
        ) as arriving,
    ):
        for name, _ in files:
            arriving.begin(name)
            arriving.write((folder / name).read_bytes())
        arriving.publish(by="tests")


def train(store: AdapterStore, base: BaseInfo, tenant: str, folder: Path, key: Path) -> None:
    """As a job's worker does with what it has trained."""
    spec = WorkerSpec.model_construct(
        job="01", tenant=tenant, adapter="greeter", alias="prod", recipe=Recipe.model_construct(), signing_key_file=key
    )
    manifest = publish.publish(store, spec, folder, base, Provenance(made_by=publish.job_name(spec)))
    publish.move_alias(store, spec, manifest.version)


WAYS = {"registration": register, "trainer": train}


def main(url: str, base: Path, folder: Path, key: Path) -> None:
    info = read_base(base)
    place = url.removeprefix("file://")
    for line in sys.stdin:
        way, tenant, at = line.split()
        child = os.fork()
        if not child:
            try:
                store = AdapterStore(open_backend(url))
                kill_at(int(at), place)
                WAYS[way](store, info, tenant, folder, key)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
