"""What must be true when the storm is over, whatever happened in it. Each check returns what is wrong: nothing, if it holds.

Owns the judgement of ledgers and stores. Does not own processes (`run.py`) or what they hold (`census.py`).
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from adapter_store import AdapterStore
from graftwork.client.errors import RemoteError, RemoteUnauthenticated
from graftwork.errors import GraftError
from graftwork.scratch import FOLDER
from graftwork.v1 import trainer_pb2 as pb
from tests.chaos.ledger import Generated, Ledger, Owner, Refused
from tests.chaos.system import System

Known = Mapping[str, Mapping[str, str]]
"""Version to prompt to its right answer."""


def nothing_to_lose(ledger: Ledger) -> list[str]:
    """A run in which nothing was promised proves nothing."""
    promised = {
        "answers": ledger.answers,
        "jobs": ledger.jobs,
        "versions": ledger.versions,
        "moves of aliases": ledger.moves,
        "keys": ledger.keys | ledger.revoked,
    }
    return [f"there were no {what}" for what, found in promised.items() if not found]


def wrong_answers(answers: Iterable[Generated], choices: Mapping[Owner, Sequence[str]], known: Known) -> list[str]:
    """Every answer is of a version of the adapter that was asked, and is what that version says."""
    found = []
    for answer in answers:
        name = "/".join(answer.owner)
        if answer.version not in choices[answer.owner]:
            found.append(f"{name} was answered by version {answer.version[:12]}, which is not its own")
        elif answer.text != known[answer.version][answer.prompt]:
            found.append(f"{name}@{answer.version[:12]} gave a wrong answer")
    return found


def dishonest_refusals(refusals: Iterable[Refused]) -> list[str]:
    """While things break, a caller is told to come back, and never that what exists does not, or that it is to blame."""
    return [f"{item.call}: {item.code}: {item.message}" for item in refusals if not item.may_be_repeated]


def lost_versions(store: AdapterStore, versions: Iterable[tuple[str, str, str]]) -> list[str]:
    """Every version is there, with all its bytes."""
    found = []
    for tenant, adapter, version in sorted(versions):
        try:
            checks = store.versions.verify(store.versions.get(tenant, adapter, version))
        except GraftError as error:
            found.append(f"{tenant}/{adapter}@{version[:12]}: {error}")
            continue
        found += [f"{tenant}/{adapter}@{version[:12]}: {check.problem}" for check in checks if check.problem]
    return found


def lost_moves(store: AdapterStore, moves: Mapping[Owner, Sequence[tuple[int, str]]]) -> list[str]:
    """Every acknowledged move of an alias is in its history, under its number, and no number is missing."""
    found = []
    for (tenant, adapter), acknowledged in moves.items():
        history = {record.number: record for record in store.aliases.history(tenant, adapter, "prod")}
        if sorted(history) != list(range(1, len(history) + 1)):
            found.append(f"{tenant}/{adapter}: the history has gaps: {sorted(history)}")
        for number, version in acknowledged:
            if number not in history or history[number].version != version:
                found.append(f"{tenant}/{adapter}: move {number} to {version[:12]} is not in the history")
    return found


def lost_jobs(system: System, operator_key: str, jobs: Mapping[str, Owner]) -> list[str]:
    """Every job is there, has ended well, and has the version that it says."""
    found = []
    with system.client(operator_key) as client:
        for name in jobs:
            try:
                job = client.get_job(name)
            except RemoteError as error:
                found.append(f"{name}: {error}")
                continue
            if job.state != pb.JOB_STATE_SUCCEEDED or not job.version:
                found.append(f"{name}: {pb.JobState.Name(job.state)}: {job.message}")
    return found


def broken_histories(system: System, operator_key: str, jobs: Iterable[str]) -> list[str]:
    """A job's events are numbered from 1 without gaps, and the last of them ends it."""
    found = []
    with system.client(operator_key) as client:
        for name in jobs:
            try:
                job = client.get_job(name)
                if not job.HasField("end_time"):
                    found.append(f"{name}: has not ended")  # and its events would not, either
                    continue
                events = list(client.watch_job(name))
            except RemoteError as error:
                found.append(f"{name}: {error}")
                continue
            numbers = [event.number for event in events]
            states = [event.state_changed.state for event in events if event.WhichOneof("event") == "state_changed"]
            if numbers != list(range(1, len(numbers) + 1)):
                found.append(f"{name}: events are missing or twice: {numbers[-5:]}")
            elif not states or states[-1] != job.state:
                found.append(f"{name}: the history does not end with the job's state")
    return found


def versions_of_jobs(system: System, operator_key: str, jobs: Mapping[str, Owner]) -> set[tuple[str, str, str]]:
    """What the jobs say that they have published."""
    found = set()
    with system.client(operator_key) as client:
        for name, (tenant, adapter) in jobs.items():
            if version := client.get_job(name).version:
                found.add((tenant, adapter, version))
    return found


def wrong_keys(system: System, ledger: Ledger) -> list[str]:
    """Every acknowledged key opens its tenant's door, and every revoked one is refused."""

    def is_accepted(secret: str, tenant: str) -> bool:
        with system.client(secret) as client:
            try:
                list(client.list_adapters(tenant))
            except RemoteUnauthenticated:
                return False
        return True

    found = [f"a key of {tenant} is refused" for key, tenant in ledger.keys.items() if not is_accepted(key, tenant)]
    return found + [
        f"a revoked key of {tenant} is accepted" for key, tenant in ledger.revoked.items() if is_accepted(key, tenant)
    ]


def damage(store_url: str, environment: Mapping[str, str]) -> list[str]:
    """`graft store check --deep`: every object is readable, every number and every blob is there."""
    command = [sys.executable, "-m", "adapter_store.care", "check", "--store", store_url, "--deep"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(environment), timeout=300, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = [
        f"{item['key']}: {item['what']}"
        for line in lines
        if (item := line.get("finding")) and item["severity"] != "note"
    ]
    if done.returncode and not found:
        found.append(f"the check ended with {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}")
    return found


def leftovers(home: Path, temporary: Path, cache_budget_bytes: int) -> list[str]:
    """Nothing half made stays on the disk, and the cache keeps to its budget."""
    found = [f"{path} is half made" for path in home.rglob("*.partial*")]
    cache = home / "serving" / "cache"
    cached = _bytes(cache)
    if cached > cache_budget_bytes:
        found.append(f"{cache} has {cached} bytes, its budget is {cache_budget_bytes}")
    places = (temporary, *home.rglob(FOLDER))
    if left := [path for place in places for path in place.rglob("*") if not path.is_dir()]:  # sockets too
        size = sum(path.lstat().st_size for path in left)
        found.append(f"{len(left)} temporary files are left, {size} bytes, such as {left[0]}")
    return found


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def judged(name: str, check: Callable[[], list[str]]) -> tuple[str, list[str]]:
    """Runs a check; one that cannot be made does not hold."""
    try:
        return name, check()
    except Exception as error:  # whatever stops a check is reported as what broke, with its type
        return name, [f"could not be checked: {type(error).__name__}: {error}"]
