"""On a GPU the seed's own recipe trains, publishes, and goes on after a crash: NF4 or bf16, paged 8-bit AdamW, checkpointing."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from adapter_store import AdapterStore, open_store
from graftwork.backbone import default_path
from graftwork.demo.tasks import DEMO_TASKS
from trainer_service.core.events import Evaluated, StepDone
from trainer_service.core.recipe import Fleet, RecipeRequest, resolve
from trainer_service.core.states import JobState
from trainer_service.core.worker_messages import Message, WorkerSpec

TASK = DEMO_TASKS[0]


class Killed(Exception):
    """Stands for a worker that dies between two steps."""


@dataclass
class Recorder:
    """The supervisor's end: keeps messages, and may die at a step."""

    die_at: int | None = None
    messages: list[Message] = field(default_factory=list)

    def send(self, message: Message) -> None:
        self.messages.append(message)
        if isinstance(message, StepDone) and message.step == self.die_at:
            raise Killed

    def settle(self) -> None:
        """Everything is kept at once."""

    def ask_to_publish(self) -> None:
        """Nobody cancels here."""

    def losses(self) -> list[float]:
        return [message.loss for message in self.messages if isinstance(message, Evaluated)]


def job(tmp_path: Path, store_url: str, bits: int, name: str = "job") -> tuple[WorkerSpec, AdapterStore]:
    store = open_store(store_url)
    if not store.tenants.list().items:
        store.tenants.create("acme")
    dataset = store.datasets.put("acme", TASK.train_file, display_name="rows", format="jsonl", rows=320)
    request = RecipeRequest(preset="compact", bits=bits, learning_rate=1e-2, batch_rows=8, max_steps=100)
    recipe, notices = resolve(request, rows=320, fleet=Fleet(device="cuda"))
    assert notices == []
    assert recipe.gradient_checkpointing
    assert recipe.optimizer == "paged_adamw_8bit"
    work = tmp_path / name
    work.mkdir()
    spec = WorkerSpec(
        job=name,
        tenant="acme",
        adapter="ticket",
        alias="prod",
        dataset=dataset.id,
        recipe=recipe,
        publish_anyway=False,
        attempt=1,
        backbone=default_path(),
        store_url=store_url,
        work_dir=work,
        device="cuda",
        threads=4,
        micro_batch_tokens=8192,
        checkpoint_seconds=0.0,
        heartbeat_seconds=5.0,
    )
    return spec, store


@pytest.mark.parametrize("bits", [16, 4])
def test_the_seeds_recipe_learns_and_publishes(tmp_path: Path, bits: int) -> None:
    from trainer_service.engine.run import run_job

    spec, store = job(tmp_path, f"file://{tmp_path}/store", bits)
    recorder = Recorder()
    finished = run_job(spec, recorder)
    assert finished.state is JobState.SUCCEEDED
    base, *later = recorder.losses()
    assert base > 2
    assert later[-1] < 0.1
    manifest = store.resolve("acme", "ticket")
    assert manifest.rank == 8
    assert manifest.made.recipe["bits"] == bits


@pytest.mark.parametrize("bits", [16, 4])
def test_a_killed_job_goes_on_where_it_was(tmp_path: Path, bits: int) -> None:
    from trainer_service.engine.run import run_job

    spec, store = job(tmp_path, f"file://{tmp_path}/store", bits)
    with pytest.raises(Killed):
        run_job(spec, Recorder(die_at=57))
    second = Recorder()
    assert run_job(spec.model_copy(update={"attempt": 2}), second).state is JobState.SUCCEEDED
    steps = [message.step for message in second.messages if isinstance(message, StepDone)]
    assert steps == list(range(57, 101)), "step 57 was not yet in a checkpoint; nothing before it is done twice"
    assert second.losses()[-1] < 0.1
    assert store.resolve("acme", "ticket").made.metrics["eval_loss"] < 0.1


@pytest.mark.parametrize("bits", [16, 4])
def test_two_gpus_learn_what_one_does(tmp_path: Path, bits: int) -> None:
    import torch

    from trainer_service.engine.run import run_job

    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")

    found = []
    for devices in (1, 2):
        spec, store = job(tmp_path, f"file://{tmp_path}/store-{devices}", bits, f"job-{devices}")
        recorder = Recorder()
        small = {"devices": devices, "micro_batch_tokens": 512}  # so that each device has several passes of a step
        assert run_job(spec.model_copy(update=small), recorder).state is JobState.SUCCEEDED
        found.append(recorder.losses())
        assert store.resolve("acme", "ticket").made.metrics["eval_loss"] < 0.1
    one, two = found
    assert two[0] == pytest.approx(one[0], rel=1e-3), "the base knows the same however many look at it"
    assert len(two) == len(one)
