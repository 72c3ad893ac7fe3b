"""The further processes of a job that trains on several devices of this machine, one a device.

The job's worker is rank 0: it starts the others, reports, saves and publishes. A replica is
`python -m trainer_service.engine.replica RANK` with the job's spec and its data set's manifest on stdin; it takes its share of
every step and of every evaluation, and says nothing. It ends with its stdin, so none outlives the worker, however that dies.
Owns starting, watching and ending them; what the ranks tell each other is `ranks`'.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from adapter_store.base import read_base
from adapter_store.manifest import DatasetManifest
from trainer_service.core.states import FailureReason
from trainer_service.core.worker_messages import Failed, Message, WorkerSpec
from trainer_service.engine.errors import DeviceOutOfMemory, EngineError, UnusableRecipe, memory_errors_as
from trainer_service.engine.ranks import ALONE, Ranks, join, leave

OUT_OF_MEMORY_STATUS = 3
"""Exit status of a replica whose device was too small."""


def device_of(spec: WorkerSpec, rank: int) -> torch.device:
    """Returns the device of a rank.

    Raises:
        UnusableRecipe: this machine has not so many.
    """
    if spec.device == "cpu":
        return torch.device("cpu")
    seen = torch.cuda.device_count()
    if seen == 0:
        raise UnusableRecipe("the trainer is set to a GPU that this process cannot see; set GRAFT_TRAINER_DEVICE=cpu")
    if spec.devices > seen:
        raise UnusableRecipe(
            f"the trainer is set to {spec.devices} GPUs and this process sees {seen}; lower GRAFT_TRAINER_DEVICES"
        )
    return torch.device("cuda", rank)


def share_threads(spec: WorkerSpec) -> None:
    """Gives each process its part of the job's CPU threads."""
    torch.set_num_threads(max(1, spec.threads // spec.devices))


@contextmanager
def replicas(spec: WorkerSpec, manifest: DatasetManifest, send: Callable[[Message], None]) -> Iterator[Ranks]:
    """Starts a job's further processes and ends them with the block; yields rank 0's place.

    A replica that dies would leave the others waiting for it without end, so its death ends this process, after a
    `Failed` that says why.
    """
    if spec.devices == 1:
        yield ALONE
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(spec.devices)}
    started: list[subprocess.Popen[bytes]] = []
    closing = threading.Event()
    try:
        for rank in range(1, spec.devices):
            started.append(_start(spec, manifest, rank, meeting))
            threading.Thread(target=_watch, args=(started[-1], closing, send), daemon=True).start()
        os.environ.update(meeting, RANK="0", LOCAL_RANK="0")
        yield join(device_of(spec, 0))
        for process in started:
            process.wait()
        leave()
    finally:
        closing.set()
        for process in started:
            process.kill()
            process.wait()


def _start(spec: WorkerSpec, manifest: DatasetManifest, rank: int, meeting: dict[str, str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer_service.engine.replica", str(rank)],
        stdin=subprocess.PIPE,
        env=os.environ | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
    )
    assert process.stdin is not None
    for document in (spec, manifest):
        process.stdin.write(document.model_dump_json().encode() + b"\n")
    process.stdin.flush()  # left open: its end is the worker's end
    return process


def _watch(process: subprocess.Popen[bytes], closing: threading.Event, send: Callable[[Message], None]) -> None:
    status = process.wait()
    if closing.is_set() or status == 0:
        return
    if status == OUT_OF_MEMORY_STATUS:
        send(Failed(reason=FailureReason.OUT_OF_MEMORY, message="the memory of one of the devices is too small"))
    else:
        send(Failed(reason=FailureReason.SYSTEM_ERROR, message=f"the process of one device ended with status {status}"))
    os._exit(1)


def main(arguments: list[str]) -> int:
    """Runs one replica to the end of the training; returns its exit status."""
    rank = int(arguments[0])
    spec = WorkerSpec.model_validate_json(sys.stdin.buffer.readline())
    manifest = DatasetManifest.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_worker, daemon=True).start()

    # Here, for `run` imports this module.
    from trainer_service.engine import job_data, run
    from trainer_service.engine.backbone import load_tokenizer
    from trainer_service.engine.checkpoint import CheckpointFolder

    share_threads(spec)
    device = device_of(spec, rank)
    ranks = join(device)
    tokenizer = load_tokenizer(spec.backbone)
    rows = job_data.load(spec.work_dir, spec.backbone, manifest, spec.recipe, tokenizer)
    try:
        with memory_errors_as("the backbone does not fit"):
            model = run.grafted(spec, tokenizer, device)
            run.training_of(
                spec,
                read_base(spec.backbone),
                model,
                rows,
                checkpoints=CheckpointFolder(spec.work_dir),
                send=lambda _: None,
                ranks=ranks,
            ).run()
    except DeviceOutOfMemory:
        return OUT_OF_MEMORY_STATUS
    except EngineError:
        return 0  # what all ranks find out together, the worker says
    return 0


def _end_with_worker() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    # As in `worker`: taking torch down in order only costs time.
    os._exit(main(sys.argv[1:]))
