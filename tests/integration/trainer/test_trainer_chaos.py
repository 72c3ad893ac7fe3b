"""Twenty kills at random moments over five jobs: all five end with the adapters that an undisturbed run makes, and
each of their histories is whole. The seed is printed; GRAFT_CHAOS_SEED repeats a run.
"""

import os
import random
import signal
import sys
import threading
from collections.abc import Callable

import psutil
import pytest
from test_trainer_crashes import assert_gapless, states
from trainer_process import Caller, TrainerProcess, rows

from graftwork.v1 import trainer_pb2 as pb

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

KILLS = 20
LONG = {"epochs": 60}
"""300 steps; a checkpoint every five."""


def victims(trainer: TrainerProcess) -> list[psutil.Process]:
    assert trainer.process is not None
    return psutil.Process(trainer.process.pid).children()


def kill_one(trainer: TrainerProcess, chance: random.Random) -> str:
    """Kills a worker, or the service with all its workers, and starts the service again."""
    workers = victims(trainer)
    if workers and chance.random() < 0.7:
        victim = chance.choice(workers)
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            return "nobody"
        return "worker"
    trainer.end(signal.SIGKILL)
    psutil.wait_procs(workers, timeout=30)
    trainer.start()
    return "service"


def is_over(caller: Caller, jobs: list) -> bool:
    return all(caller.get(job.name).HasField("end_time") for job in jobs)


def test_twenty_random_kills_over_five_jobs(
    own_trainer: Callable[..., TrainerProcess], capfd: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("GRAFT_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    chance = random.Random(seed)
    trainer = own_trainer(GRAFT_TRAINER_MAX_RUNNING_JOBS="2")
    acme, bloom = trainer.tenant("acme"), trainer.tenant("bloom")
    calm = acme.create(acme.upload(rows()).name, adapter="calm", **LONG)
    assert states(list(acme.watch(calm.name)))[-1] == "SUCCEEDED"
    expected = trainer.store.resolve("acme", "calm").version

    owners = [acme, bloom, acme, bloom, acme]
    data = {caller: caller.upload(rows()).name for caller in (acme, bloom)}
    jobs = [caller.create(data[caller], adapter=f"chaos-{at}", **LONG) for at, caller in enumerate(owners)]
    pause, killed = threading.Event(), []
    while len(killed) < KILLS and not all(is_over(owner, [job]) for owner, job in zip(owners, jobs, strict=True)):
        pause.wait(chance.uniform(0, 4))  # the moments are what is random here
        if (what := kill_one(trainer, chance)) != "nobody":
            killed.append(what)
    with capfd.disabled():
        sys.stdout.write(f"\nseed {seed}: killed {', '.join(killed)}\n")
    assert len(killed) == KILLS, "the jobs were over too early for a test of them; give them more epochs"
    for at, (owner, job) in enumerate(zip(owners, jobs, strict=True)):
        events = list(owner.watch(job.name))
        done = owner.get(job.name)
        assert done.state == pb.JOB_STATE_SUCCEEDED, f"seed {seed}: {done.message}"
        assert_gapless(events)
        steps = [event.step_done.step for event in events if event.WhichOneof("event") == "step_done"]
        assert steps == list(range(1, 301)), f"seed {seed}: every step once, in order"
        tenant = owner.parent.split("/")[1]
        assert trainer.store.resolve(tenant, f"chaos-{at}").version == expected, f"seed {seed}"
        assert len(trainer.store.aliases.history(tenant, f"chaos-{at}", "prod")) == 1
