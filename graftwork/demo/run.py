"""The demo from start to end: services, tenants, training, traffic, figures.

Owns the order of the steps and their clock. Does not own the terminal (`graftwork.cli.demo`) nor the services' processes
(`graft up`, which it starts as anybody would).
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from graftwork.client import Client
from graftwork.client.channel import Channel, tls_ca, tls_identity
from graftwork.client.errors import RemoteAlreadyExists, RemoteNotFound
from graftwork.demo.report import MixedBatch, Report, TenantFigures
from graftwork.demo.tasks import DEMO_TASKS, DemoTask
from graftwork.demo.traffic import Asked, Question, ask_all, cold_and_warm, is_foreign, questions, request_for
from graftwork.local.errors import StartFailed
from graftwork.local.fleet import last_line, running_pid
from graftwork.local.home import Home, ServiceName
from graftwork.v1 import trainer_pb2 as pb
from graftwork.v1.registry_pb2 import CreateApiKeyResponse

READY_S = 300.0
_POLL_S = 0.2

RECIPE = pb.Recipe(preset="mini", learning_rate=1e-2, batch_rows=8, max_steps=100, seed=0)
"""Rank 8 on q_proj and v_proj, as the rows' number decides. A backbone of 4.7M parameters wants a learning rate fifty times the
seed's 2e-4, which stays the default for real backbones."""


@dataclass(slots=True)
class DemoView:
    """What the demo tells while it runs; the terminal fills these in.

    Attributes:
        step: a new step began.
        event: a tenant's job did something.
        asked: one request of the mixed traffic is done; gets the number of all.
    """

    step: Callable[[str], None]
    event: Callable[[DemoTask, pb.JobEvent], None]
    asked: Callable[[int], None]


@dataclass(slots=True)
class DemoResult:
    """The report and one answered question of each kind, for people."""

    report: Report
    examples: list[Asked] = field(default_factory=list)


class _Clock:
    """Seconds of each named step."""

    def __init__(self, view: DemoView) -> None:
        self.seconds: dict[str, float] = {}
        self._view = view

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        self._view.step(title)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 2)


def run_demo(home: Home, view: DemoView) -> DemoResult:
    """Runs the whole demo in a home folder; can be run again in the same one.

    Raises:
        GraftError: a step failed; the services have been stopped.
    """
    started = time.monotonic()
    clock = _Clock(view)
    with ExitStack() as stack:
        with clock.step("start_trainer", "starting both services"):
            stack.enter_context(_services(home))
            _wait(home, ServiceName.TRAINER)
        operator = stack.enter_context(_client(home, home.operator_key()))
        keys = dict(_tenants(operator))
        clients = {tenant: stack.enter_context(_client(home, key.secret)) for tenant, key in keys.items()}
        with clock.step("train", "training three tenants, while the serving service loads the backbone"):
            jobs = _train(clients, view)
        with clock.step("wait_for_serving", "waiting for the serving service"):
            _wait(home, ServiceName.SERVING)
        # The channels were made before the serving service had a port: make them again.
        clients = {tenant: stack.enter_context(_client(home, key.secret)) for tenant, key in keys.items()}
        operator = stack.enter_context(_client(home, home.operator_key()))
        with clock.step("cold_and_warm", "first tokens, cold and warm"):
            timings = _first_tokens(operator, clients, jobs)
        with clock.step("mixed_batch", "everything at once: three tenants and the base"):
            asked = _mixed(clients, view)
        refused = _foreign_refused(clients)
        for tenant, key in keys.items():  # nobody has their texts any more
            operator.revoke_key(tenant, key.key.id)
    clock.seconds["total"] = round(time.monotonic() - started, 2)
    report = _report(jobs, timings, asked, refused, clock.seconds)
    return DemoResult(report, _examples(asked))


@contextmanager
def _services(home: Home) -> Iterator[None]:
    """Runs `graft up` for as long as the block lasts."""
    home.prepare()
    log_file = home.logs / "up.log"
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "graftwork.cli.main", "--home", str(home.root), "up"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while running_pid(home) != process.pid:
            if process.poll() is not None:
                raise StartFailed(last_line(log_file))
            time.sleep(_POLL_S)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _wait(home: Home, service: ServiceName) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        if running_pid(home) is None:
            raise StartFailed(last_line(home.logs / "up.log"))
        if address := home.address(service):
            channel = Channel(address, None, tls_ca(), tls_identity())
            try:
                if channel.is_serving():
                    return
            finally:
                channel.close()
        if time.monotonic() > deadline:
            raise StartFailed(f"{service.value} not ready after {READY_S:g} s: {last_line(home.log_file(service))}")
        time.sleep(_POLL_S)


def _client(home: Home, key: str | None) -> Client:
    nowhere = "127.0.0.1:1"  # until the serving service has a port
    return Client(
        home.address(ServiceName.TRAINER) or nowhere,
        home.address(ServiceName.SERVING) or nowhere,
        key,
        tls_ca(),
        tls_identity(),
    )


def _tenants(operator: Client) -> Iterator[tuple[str, CreateApiKeyResponse]]:
    """Makes sure that the tenants exist; gives each a new key, since old ones are kept as hashes only."""
    for task in DEMO_TASKS:
        with suppress(RemoteAlreadyExists):
            operator.create_tenant(task.tenant)
        yield task.tenant, operator.create_key(task.tenant, "graft demo")


def _train(clients: dict[str, Client], view: DemoView) -> dict[str, pb.Job]:
    names = {}
    for task in DEMO_TASKS:
        client = clients[task.tenant]
        dataset = client.upload_dataset(task.tenant, task.train_file)
        request = pb.CreateJobRequest(
            parent=f"tenants/{task.tenant}", dataset=dataset.name, adapter_id=task.adapter, recipe=RECIPE
        )
        names[task.tenant] = client.create_job(request).name
    done = {}
    for task in DEMO_TASKS:
        for event in clients[task.tenant].watch_job(names[task.tenant]):
            view.event(task, event)
        done[task.tenant] = job = clients[task.tenant].get_job(names[task.tenant])
        if job.state != pb.JOB_STATE_SUCCEEDED:
            raise StartFailed(f"job {job.name} ended {pb.JobState.Name(job.state)}: {job.message}")
    return done


def _held_out(task: DemoTask) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(task.held_out_file).read_text().splitlines()]


def _first_tokens(
    operator: Client, clients: dict[str, Client], jobs: dict[str, pb.Job]
) -> dict[str, tuple[float, float]]:
    timings = {}
    for task in DEMO_TASKS:
        version = jobs[task.tenant].version
        if any(held.version == version for held in operator.residency()):
            operator.evict(task.tenant, task.adapter, version)  # of an earlier run: the adapter must be cold
        timings[task.tenant] = cold_and_warm(clients[task.tenant], questions(task, _held_out(task), task.adapter))
    return timings


def _mixed(clients: dict[str, Client], view: DemoView) -> list[Asked]:
    mixed: list[Question] = []
    for task in DEMO_TASKS:
        rows = _held_out(task)
        mixed += questions(task, rows, task.adapter) + questions(task, rows, "")
    return ask_all(clients, mixed, lambda: view.asked(len(mixed)))


def _foreign_refused(clients: dict[str, Client]) -> bool:
    """Tells whether every tenant gets NOT_FOUND for every other tenant's adapter."""
    for task in DEMO_TASKS:
        for other in DEMO_TASKS:
            if other is task:
                continue
            request = request_for(Question(task, other.adapter, "x", ""))
            for parent in ("", f"tenants/{other.tenant}"):
                request.parent = parent
                try:
                    clients[task.tenant].generate(request, timeout=60)
                except RemoteNotFound:
                    continue
                return False
    return True


def _match(asked: list[Asked], task: DemoTask, adapter: str) -> float:
    right = [item.is_right for item in asked if item.question.task is task and item.question.adapter == adapter]
    return round(sum(right) / len(right), 4)


def _report(
    jobs: dict[str, pb.Job],
    timings: dict[str, tuple[float, float]],
    asked: list[Asked],
    refused: bool,
    seconds: dict[str, float],
) -> Report:
    figures = tuple(
        TenantFigures(
            tenant=task.tenant,
            adapter=task.adapter,
            version=jobs[task.tenant].version,
            base_exact_match=_match(asked, task, ""),
            adapter_exact_match=_match(asked, task, task.adapter),
            train_seconds=round(_seconds(jobs[task.tenant]), 2),
            cold_first_token_ms=round(timings[task.tenant][0], 1),
            warm_first_token_ms=round(timings[task.tenant][1], 1),
        )
        for task in DEMO_TASKS
    )
    versions = {tenant: job.version for tenant, job in jobs.items()}
    wrong = sum(is_foreign(item, versions) for item in asked)
    return Report(figures, MixedBatch(len(asked), wrong), refused, seconds)


def _seconds(job: pb.Job) -> float:
    return (job.end_time.ToNanoseconds() - job.start_time.ToNanoseconds()) / 1e9


def _examples(asked: list[Asked]) -> list[Asked]:
    """The first held-out row of each task, answered by the base and by the adapter."""
    picked = []
    for task in DEMO_TASKS:
        first = questions(task, _held_out(task)[:1], "")[0].prompt
        picked += sorted(
            (item for item in asked if item.question.task is task and item.question.prompt == first),
            key=lambda item: item.question.adapter,
        )
    return picked
