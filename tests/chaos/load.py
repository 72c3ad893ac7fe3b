"""The load: tenants ask, train, register, move aliases, and change keys, each caller in a thread of its own.

Owns what is asked. All choices come from the seed, but who is first among threads does not.
"""

import json
import random
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from graftwork.client import Client
from graftwork.client.errors import RemoteError, RemoteUnavailable
from graftwork.rpc.status import STATUS
from graftwork.v1 import serving_pb2, trainer_pb2
from tests.chaos.ledger import Generated, Ledger, Owner, Refused
from tests.chaos.system import System
from tests.integration.serving.soak_world import PROMPTS, TOKENS, SoakWorld

ANSWER_S = 60.0
JOBS_AT_ONCE = 2
_PAUSE_S = 0.2  # after a refusal: a caller who is turned away does not come back at once
T = TypeVar("T")


@dataclass
class Caller:
    """Calls with one key; finds the services again after they were away, and writes down what was refused."""

    system: System
    ledger: Ledger
    key: str
    _client: Client | None = None

    def call(self, what: str, ask: Callable[[Client], T]) -> T | None:
        """Returns the answer, or None when the call was refused, which is in the ledger then."""
        client = self._client = self._client or self.system.client(self.key)
        try:
            return ask(client)
        except RemoteError as error:
            refused = Refused(
                what, error.code.value, str(error)[:300], STATUS[error.code].retry or error.code == "deadline"
            )
            self.ledger.refusals.append(refused)
            if isinstance(error, RemoteUnavailable) or error.code == "deadline":
                self.close()  # it may listen elsewhere when it is back
            return None

    def close(self) -> None:
        if self._client:
            self._client.close()
            self._client = None


def ask(caller: Caller, owner: Owner, prompt: str) -> Generated | None:
    """Generates greedily with an adapter's `prod`."""
    request = serving_pb2.GenerateRequest(
        parent=f"tenants/{owner[0]}",
        model=owner[1],
        prompt=prompt,
        sampling=serving_pb2.Sampling(temperature=0.0, max_tokens=TOKENS),
    )
    answer = caller.call("generate", lambda client: client.generate(request, timeout=ANSWER_S))
    return Generated(owner, prompt, answer.version, answer.text) if answer else None


@dataclass
class Load:
    """Runs until `stop`.

    Args:
        system: where to.
        world: tenants, keys and adapters with known answers.
        operator_key: for what tenants may not do.
        seed: of all choices.
        folder: for the files of uploads, on a disk that is never full.
    """

    system: System
    world: SoakWorld
    operator_key: str
    seed: int
    folder: Path
    ledger: Ledger = field(default_factory=Ledger)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _broken: list[BaseException] = field(default_factory=list)

    def start(self, askers: int) -> None:
        """Starts all callers."""
        rows = [{"instruction": "count", "input": f"n:{at}", "response": "one two " * (at % 3 + 1)} for at in range(40)]
        (self.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        jobs: list[Callable[[random.Random], None]] = [self._ask] * askers + [self._train, self._administer]
        for number, job in enumerate(jobs):
            thread = threading.Thread(
                target=self._guard, args=(job, random.Random(f"{self.seed}/{number}")), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Waits until every call has ended.

        Raises:
            TimeoutError: one has not.
            BaseException: what a caller met that is no refusal.
        """
        self._stop.set()
        for thread in self._threads:
            thread.join(4 * ANSWER_S)
            if thread.is_alive():
                raise TimeoutError("a call never ended")
        if self._broken:
            raise self._broken[0]

    def _guard(self, job: Callable[[random.Random], None], chance: random.Random) -> None:
        try:
            job(chance)
        except BaseException as error:  # raised by `stop`, where somebody sees it
            self._broken.append(error)

    def _ask(self, chance: random.Random) -> None:
        callers = {tenant: Caller(self.system, self.ledger, key) for tenant, key in self.world.keys.items()}
        owners = sorted(self.world.choices)
        while not self._stop.is_set():
            owner = chance.choice(owners)
            answer = ask(callers[owner[0]], owner, chance.choice(PROMPTS))
            if answer:
                self.ledger.answers.append(answer)
            else:
                self._stop.wait(_PAUSE_S)
        for caller in callers.values():
            caller.close()

    def _train(self, chance: random.Random) -> None:
        operator = Caller(self.system, self.ledger, self.operator_key)
        open_jobs: list[str] = []
        made = 0
        while not self._stop.is_set():
            tenant = chance.choice(sorted(self.world.keys))
            if len(open_jobs) < JOBS_AT_ONCE and self._create_job(operator, tenant, f"job-{made}", open_jobs):
                made += 1
            for name in list(open_jobs):
                job = operator.call("get_job", lambda client, name=name: client.get_job(name))
                if job and job.HasField("end_time"):
                    open_jobs.remove(name)
            self._stop.wait(1.0)
        operator.close()

    def _create_job(self, operator: Caller, tenant: str, adapter: str, open_jobs: list[str]) -> bool:
        rows = self.folder / "rows.jsonl"
        dataset = operator.call("upload_dataset", lambda client: client.upload_dataset(tenant, rows))
        if not dataset:
            return False
        request = trainer_pb2.CreateJobRequest(
            parent=f"tenants/{tenant}",
            dataset=dataset.name,
            adapter_id=adapter,
            recipe=trainer_pb2.Recipe(learning_rate=1e-2, epochs=4, batch_rows=8, dropout=0.1),
            idempotency_key=uuid.uuid4().hex,
            publish_anyway=True,
        )
        job = operator.call("create_job", lambda client: client.create_job(request))
        if not job:
            return False
        self.ledger.jobs[job.name] = (tenant, adapter)
        open_jobs.append(job.name)
        return True

    def _administer(self, chance: random.Random) -> None:
        operator = Caller(self.system, self.ledger, self.operator_key)
        made = 0
        while not self._stop.wait(chance.uniform(0.2, 1.5)):
            what = chance.choice((self._move, self._move, self._register, self._change_keys))
            made += 1
            what(operator, chance, made)
        operator.close()

    def _move(self, operator: Caller, chance: random.Random, made: int) -> None:
        owner = chance.choice([owner for owner, versions in sorted(self.world.choices.items()) if len(versions) > 1])
        version = chance.choice(self.world.choices[owner])
        name = f"tenants/{owner[0]}/adapters/{owner[1]}/aliases/prod"
        moved = operator.call("set_alias", lambda client: client.set_alias(name, version, reason=f"chaos {made}"))
        if moved:
            self.ledger.moves.setdefault(owner, []).append((moved.number, moved.version))

    def _register(self, operator: Caller, chance: random.Random, made: int) -> None:
        folder = chance.choice(sorted((self.world.root / "adapters").iterdir()))
        tenant, adapter = chance.choice(sorted(self.world.keys)), f"registered-{made}"
        answer = operator.call("register", lambda client: client.register_adapter(tenant, adapter, folder))
        if answer:
            self.ledger.versions.add((tenant, adapter, answer.version.name.rsplit("/", 1)[-1]))

    def _change_keys(self, operator: Caller, chance: random.Random, made: int) -> None:
        tenant = chance.choice(sorted(self.world.keys))
        key = operator.call("create_key", lambda client: client.create_key(tenant, f"chaos {made}"))
        if not key:
            return
        if chance.random() < 0.5:
            self.ledger.keys[key.secret] = tenant
        elif operator.call("revoke_key", lambda client: client.revoke_key(tenant, key.key.id)):
            self.ledger.revoked[key.secret] = tenant
        else:
            self.ledger.doubtful.add(key.secret)
