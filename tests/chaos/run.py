"""One run: world up, storms under load, calm, judgement.

Owns the order. First half: everything goes wrong, kills included. Second half: everything but kills, so that the same
processes live from one census to the next, and what they leak shows.
"""

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from graftwork.local.home import Home
from tests.chaos import invariants
from tests.chaos.census import census, handle_leaks, memory_leaks, replaced
from tests.chaos.clock import JumpingClock
from tests.chaos.disk import SmallDisk
from tests.chaos.faults import Faults, storm
from tests.chaos.load import Caller, Load, ask
from tests.chaos.slow_proxy import SlowProxy
from tests.chaos.system import SERVICES, System, log_tail, until
from tests.contract.rgw import Rgw
from tests.integration.serving.soak_world import PROMPTS, SoakWorld, soak_world

READY_S = 240.0
"""A service is back within this, on a machine that does other things too."""
JOB_S = 90.0
"""For each job that is still to run when the storm is over."""
KILLS_SHARE = 0.55
DISK_BUDGET = 1_000_000
SETTINGS = {
    "GRAFT_SERVING_MAX_LORAS": "4",
    "GRAFT_SERVING_MAX_LORA_RANK": "16",
    "GRAFT_SERVING_KV_CACHE_GIB": "0.1",
    "GRAFT_SERVING_MAX_NUM_SEQS": "16",
    "GRAFT_SERVING_DISK_BUDGET_BYTES": str(DISK_BUDGET),
    "GRAFT_SERVING_HOST_BUDGET_BYTES": "400000",
    "GRAFT_SERVING_THREADS": "1",
    "GRAFT_TRAINER_THREADS": "1",
    "GRAFT_TRAINER_MAX_RANK": "16",
    "GRAFT_TRAINER_CHECKPOINT_SECONDS": "5",
    "HF_HUB_OFFLINE": "1",
}
"""Small, so that tiers overflow and slots are shared all the time."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run.

    Attributes:
        seconds: of storm, starting and judging apart.
        seed: of all choices.
        say: takes a line for people.
        keep: folder for the logs of a run in which something broke.
    """

    seconds: float
    seed: int
    say: Callable[[str], None]
    keep: Path | None = None


@dataclass(slots=True)
class Stage:
    """All that a run works on."""

    options: Options
    world: SoakWorld
    network: SlowProxy
    disk: SmallDisk
    system: System
    faults: Faults

    @property
    def key(self) -> str:
        return self.system.home.operator_key() or ""


def run(options: Options) -> dict[str, list[str]]:
    """Returns each invariant with what broke it: nothing, where it held."""
    with _stage(options) as stage:
        stage.system.start()
        until("the first start", stage.system.all_ready, READY_S)
        options.say(f"up; seed {options.seed}, {options.seconds:g} s of storm")
        found = _storms(stage)
        if options.keep and any(found.values()):
            shutil.copytree(stage.system.home.logs, options.keep / "logs", dirs_exist_ok=True)
            shutil.copy(stage.system.home.root.parent / "up.log", options.keep / "up.log")
    return found


@contextmanager
def _stage(options: Options) -> Iterator[Stage]:
    root = Path(tempfile.mkdtemp(prefix="chaos"))  # short: Ceph's sockets lie in it
    (root / "s3").mkdir()
    rgw = Rgw(root / "s3")
    try:
        rgw.start()
        os.environ |= {"AWS_ACCESS_KEY_ID": rgw.access_key, "AWS_SECRET_ACCESS_KEY": rgw.secret_key}
        with (
            soak_world(root / "world", rgw, tenants=6, adapters=18, moving=9) as (world, direct),
            SlowProxy(rgw.endpoint) as network,
            SmallDisk(root / "disk") as disk,
        ):
            url = world.proxied.replace(direct.endpoint, network.endpoint)
            (disk.folder / "tmp").mkdir()
            clock = JumpingClock(root) if JumpingClock.is_possible() else None
            system = System(
                Home(disk.folder / "home"),
                ("--backbone", str(world.backbone), "--store", url),
                {**SETTINGS, "TMPDIR": str(disk.folder / "tmp"), **(clock.environment if clock else {})},
            )
            faults = Faults(system, network, disk, clock, random.Random(options.seed))
            try:
                yield Stage(options, world, network, disk, system, faults)
            finally:
                system.kill()
    finally:
        rgw.stop()
        shutil.rmtree(root, ignore_errors=True)


def _storms(stage: Stage) -> dict[str, list[str]]:
    options, system, faults = stage.options, stage.system, stage.faults
    (stage.world.root / "uploads").mkdir()
    load = Load(system, stage.world, stage.key, options.seed, stage.world.root / "uploads")
    load.start(askers=3)
    storm(faults, faults.kills() | faults.troubles(), options.seconds * KILLS_SHARE, time.monotonic)
    faults.end()
    options.say(f"after the kills: {', '.join(faults.done)}; waiting for both services")
    kills = len(faults.done)
    results = [invariants.judged("both services come back by themselves after kills", lambda: _recovered(stage))]
    _exercise(stage, load)
    before = census(system)
    storm(faults, faults.troubles(), options.seconds * (1 - KILLS_SHARE), time.monotonic)
    faults.end()
    options.say(f"after the troubles: {', '.join(faults.done[kills:])}; waiting for calls and jobs to end")
    results.append(invariants.judged("both services serve again after troubles", lambda: _recovered(stage)))
    load.stop()
    _await_jobs(stage, load)
    results.append(invariants.judged("every adapter answers right in the end", lambda: _exercise(stage, load)))
    after = census(system)
    results += _judge(stage, load)
    results += [
        invariants.judged("services live through all but kills", lambda: replaced(before, after)),
        invariants.judged("no leak of memory", lambda: memory_leaks(before, after)),
        invariants.judged("no leak of file handles or threads", lambda: handle_leaks(before, after)),
        invariants.judged("everything ends when told to", lambda: _ended(stage)),
    ]
    home = system.home.root
    results.append(
        invariants.judged("no leak of disk", lambda: invariants.leftovers(home, stage.disk.folder / "tmp", DISK_BUDGET))
    )
    ledger = load.ledger
    options.say(
        f"{len(ledger.answers)} answers, {len(ledger.jobs)} jobs, {len(ledger.versions)} registrations, "
        f"{sum(map(len, ledger.moves.values()))} moves, {len(ledger.keys) + len(ledger.revoked)} keys; "
        f"refused: {ledger.codes()}; graft up started {system.starts} times"
    )
    return dict(results)


def _judge(stage: Stage, load: Load) -> list[tuple[str, list[str]]]:
    world, system, ledger, key = stage.world, stage.system, load.ledger, stage.key
    check = invariants.judged
    return [
        check("there was something to lose of every kind", lambda: invariants.nothing_to_lose(ledger)),
        check("no wrong tenant's answer", lambda: invariants.wrong_answers(ledger.answers, world.choices, world.known)),
        check("refusals say that one may come back", lambda: invariants.dishonest_refusals(ledger.refusals)),
        check("no acknowledged job is lost", lambda: invariants.lost_jobs(system, key, ledger.jobs)),
        check("every job's history is whole", lambda: invariants.broken_histories(system, key, ledger.jobs)),
        check(
            "no acknowledged version is lost",
            lambda: invariants.lost_versions(
                world.store, ledger.versions | invariants.versions_of_jobs(system, key, ledger.jobs)
            ),
        ),
        check("no acknowledged move of an alias is lost", lambda: invariants.lost_moves(world.store, ledger.moves)),
        check("keys open what they should, and no more", lambda: invariants.wrong_keys(system, ledger)),
        check("nothing in the store is damaged", lambda: invariants.damage(stage.world.proxied, os.environ)),
    ]


def _recovered(stage: Stage) -> list[str]:
    try:
        until("both services are ready", stage.system.all_ready, READY_S)
    except TimeoutError as error:
        missing = [service for service in SERVICES if not stage.system.is_ready(service)]
        return [f"{error}; not ready: {', '.join(missing)}\n{_logs(stage)}"]
    return []


def _exercise(stage: Stage, load: Load) -> list[str]:
    """Asks every adapter every prompt once, without a storm; what comes is judged at once."""
    found = []
    operator = Caller(stage.system, load.ledger, stage.key)
    for owner in sorted(stage.world.choices):
        answers = [ask(operator, owner, prompt) for prompt in PROMPTS]
        if None in answers:
            found.append(f"{'/'.join(owner)} does not answer: {load.ledger.refusals[-1].message}")
        given = [answer for answer in answers if answer]
        found += invariants.wrong_answers(given, stage.world.choices, stage.world.known)
    operator.close()
    return found


def _await_jobs(stage: Stage, load: Load) -> None:
    """Waits for the jobs that are still to run; what has not ended then is `lost_jobs`' to tell."""
    operator = Caller(stage.system, load.ledger, stage.key)

    def have_ended() -> bool:
        jobs = [operator.call("get_job", lambda client, name=name: client.get_job(name)) for name in load.ledger.jobs]
        return all(job is not None and job.HasField("end_time") for job in jobs)

    try:
        until("jobs end", have_ended, JOB_S * (2 + len(load.ledger.jobs) / 4))
    except TimeoutError as error:
        stage.options.say(str(error))
    operator.close()


def _ended(stage: Stage) -> list[str]:
    status = stage.system.stop()
    found = [f"graft down, or graft up, ended with {status}"] if status else []
    return found + [f"left running: {' '.join(process.cmdline())[:200]}" for process in stage.system.processes()]


def _logs(stage: Stage) -> str:
    return log_tail(stage.system.home.logs) + log_tail(stage.system.home.root.parent)
