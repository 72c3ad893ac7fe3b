"""A large data set through a real trainer: time, and the peak memory of every process that touches its rows.

Uploads, validates with every row tokenized, and encodes as a job's worker does. There is no peer: what is judged is that
memory does not grow with the rows, so run it with `--rows` of several sizes. Owns starting the service and watching its
processes, by the kernel's own high-water marks (VmHWM), read while they live.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import parser, show, write
from benchmarks.training import instructions
from graftwork.backbone import default_path
from graftwork.client import Client

KEY = "gwop_" + "0" * 48
BLOCK = 10_000
LOOK_S = 0.05

ENCODE = """
import sys
from pathlib import Path
from trainer_service.core.split import split
from trainer_service.engine import data
from trainer_service.engine.backbone import load_tokenizer
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
file, backbone, folder = map(Path, sys.argv[1:4])
tokenizer = load_tokenizer(backbone)
loaded = peak()
examples = data.encode_file(data.Source(file, "jsonl", "d", backbone), tokenizer, max_length=512, folder=folder).examples
train, held_out = split(examples.prompts, len(examples) // 10, "d")
print(len(examples.select(train)) + len(examples.select(held_out)), loaded, peak())
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="graft-benchmark-") as folder:
        work = Path(folder)
        file = _make(work / "rows.jsonl", asked.rows)
        size = file.stat().st_size
        with _trainer(work) as (service, client):
            client.create_tenant("acme")
            steps = [
                _measured("upload, checked", service, lambda: client.upload_dataset("acme", file)),
                _measured("validate, all tokenized", service, lambda: client.validate_dataset("acme", file)),
            ]
        steps.append(_encode(work, file))
    show(
        f"{asked.rows:,} rows, {size / 1e6:.0f} MB",
        ("", "seconds", "service MB", "own process MB"),
        [[step["step"], step["seconds"], step["service_mb"] or "-", step["process_mb"]] for step in steps],
    )
    print(f"a process with the tokenizer loaded and no rows: {steps[-1]['loaded_mb']:.0f} MB")
    write(asked.json, {"rows": asked.rows, "steps": steps})


def _make(file: Path, count: int) -> Path:
    """Writes `count` different rows of natural length spread; a block of them is repeated with other names."""
    block = instructions.make(BLOCK, seed=1)
    with file.open("w", encoding="utf-8") as out:
        for at in range(count):
            row = block[at % BLOCK]
            out.write(json.dumps(row | {"instruction": f"{row['instruction']} {at}"}) + "\n")
    return file


@contextmanager
def _trainer(work: Path) -> Iterator[tuple[psutil.Process, Client]]:
    (work / "key").write_text(KEY)
    address = work / "address"
    environment = os.environ | {
        "GRAFT_STORE_URL": f"file://{work / 'store'}",
        "GRAFT_BACKBONE": str(default_path()),
        "GRAFT_OPERATOR_KEY_FILE": str(work / "key"),
        "GRAFT_TRAINER_STATE_DIR": str(work / "state"),
        "GRAFT_TRAINER_ADDRESS_FILE": str(address),
    }
    process = subprocess.Popen([sys.executable, "-m", "trainer_service"], env=environment, stderr=subprocess.DEVNULL)
    try:
        while not address.exists():
            if process.poll() is not None:
                sys.exit("the trainer did not start")
            time.sleep(LOOK_S)
        with Client(address.read_text().strip(), address.read_text().strip(), KEY) as client:
            yield psutil.Process(process.pid), client
    finally:
        process.terminate()
        process.wait()


def _measured(step: str, service: psutil.Process, run: Callable[[], Any]) -> dict[str, Any]:
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_S):
            peak[0] = max([peak[0], *(_peak(child.pid) for child in service.children(recursive=True))])

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    ended.set()
    watcher.join()
    service_mb, process_mb = _peak(service.pid) / 1e6, peak[0] / 1e6
    print(f"{step}: {seconds:.0f} s, service {service_mb:.0f} MB, own process {process_mb:.0f} MB", file=sys.stderr)
    return {"step": step, "seconds": seconds, "service_mb": service_mb, "process_mb": process_mb}


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _encode(work: Path, file: Path) -> dict[str, Any]:
    began = time.perf_counter()
    command = [sys.executable, "-c", ENCODE, str(file), str(default_path()), str(work / "encoded")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"encoding failed:\n{done.stderr[-2000:]}")
    rows, loaded, peak = map(int, done.stdout.split()[-3:])
    seconds = time.perf_counter() - began
    return {
        "step": "a job's encoding", "rows": rows, "seconds": seconds, "service_mb": 0.0, "process_mb": peak / 1e6,
        "loaded_mb": loaded / 1e6,
    }  # fmt: skip


if __name__ == "__main__":
    main()
