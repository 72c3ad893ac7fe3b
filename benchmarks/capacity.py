"""How many adapters fit: bytes of one on disk and in host memory, of one device slot, and what a full node really holds.

`python -m benchmarks.capacity --json F` runs the service twice. The first, with few slots, is brought adapters of two kinds (query
and value; all linear layers): what it says it holds is compared with what its processes and its folder have grown by. The second,
with many slots, is brought adapters until its host budget holds no more. At the end of both an adapter computes in each slot: the
difference says what a slot costs.

Memory is each process's share of anonymous and shared pages (`Pss_Anon`, `Pss_Shmem`): pages of files, such as libraries, come and
go with what else the machine does. Nothing is timed.
"""

import tempfile
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import parser, show, write
from benchmarks.serving_fleet import ATTENTION, LINEAR, SHAPES, Fleet, Running, make_adapter, make_backbone, serve
from graftwork.v1 import serving_pb2

KIB, MIB, GIB = 1024, 1024**2, 1024**3
KINDS = {"q,v": ("q_proj", "v_proj"), "all linear": LINEAR}
FEW, MANY = 2, 18
"""Slots of the two services; the difference is what is measured."""
SURE = 8
"""Adapters in a row that bring the number of those held no higher: then the budget is full."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of one adapter, means over all of its kind.

    Attributes:
        file: its `adapter_model.safetensors`, in float32.
        disk, host: what the service says that it holds.
        allocated: what the file system gave the service's cache for it.
        grown: what the service's processes grew by in host memory.
    """

    file: float
    disk: float
    allocated: float
    host: float
    grown: float


@dataclass(frozen=True, slots=True)
class Full:
    """A node whose host budget holds no more.

    Attributes:
        budget: of host memory, in bytes.
        brought: adapters that were asked for.
        held: of them in host memory at the end; most of them at any time is the same, or one more.
        on_disk: of them on the node's disk.
        host: bytes that the service says it holds in host memory.
        grown: bytes that its processes grew by.
    """

    budget: int
    brought: int
    held: int
    on_disk: int
    host: int
    grown: int


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shape", choices=list(SHAPES), default="115m", help="of the backbone (default 115m)")
    options.add_argument("--adapters", type=int, default=24, help="of each kind (default 24)")
    options.add_argument("--rank", type=int, default=16, help="default 16")
    options.add_argument("--max-rank", type=int, default=64, help="the service's, which its slots have (default 64)")
    options.add_argument("--host-budget-mib", type=int, default=256, help="that is filled (default 256)")
    asked = options.parse_args()
    figures: dict[str, Any] = {"setting": {**vars(asked), "json": None}}
    with tempfile.TemporaryDirectory(prefix="graft-capacity-") as folder:
        fleet = Fleet(
            Path(folder), make_backbone(Path(folder) / "backbone", SHAPES[asked.shape]), f"file://{folder}/store"
        )
        fleet.tenant("acme")
        for number in range(MANY):
            _publish(fleet, f"slot-{number}", "q,v", asked.max_rank, 1000 + number)
        settings = {"max_lora_rank": asked.max_rank, "max_model_len": 512, "kv_cache_gib": 0.5, "max_num_seqs": MANY}
        budget = asked.host_budget_mib * MIB
        with _service(fleet, FEW, **settings) as service:
            figures |= _costs(fleet, service, asked.adapters, asked.rank)
            few = _used(fleet, service)
        with _service(fleet, MANY, host_budget_bytes=budget, **settings) as service:
            figures |= _full(fleet, service, asked.rank, budget)
            many = _used(fleet, service)
        figures |= _slot((many - few) / (MANY - FEW), asked.shape, asked.max_rank)
    write(asked.json, figures)


def _service(fleet: Fleet, slots: int, **settings: object) -> AbstractContextManager[Running]:
    return serve(fleet, _home(fleet, slots), max_loras=slots, max_adapters_in_flight=slots, **settings)


def _home(fleet: Fleet, slots: int) -> Path:
    return fleet.work / f"slots-{slots}"


def memory() -> int:
    """The share that this process's children, and theirs, have of anonymous and shared pages, in bytes."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        for line in Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1]) * KIB
    return total


def _allocated(folder: Path) -> int:
    """Bytes that the file system has given to a folder's files."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _publish(fleet: Fleet, name: str, kind: str, rank: int, seed: int) -> int:
    """Publishes one adapter with random weights; returns the bytes of its weights' file."""
    with tempfile.TemporaryDirectory(dir=fleet.work) as work:
        folder = make_adapter(Path(work) / "adapter", fleet.backbone, rank=rank, modules=KINDS[kind], seed=seed)
        fleet.publish("acme", name, folder)
        return (folder / "adapter_model.safetensors").stat().st_size


def _metadata(fleet: Fleet) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {fleet.operator_key}"),)


def _bring(fleet: Fleet, service: Running, name: str) -> serving_pb2.Residency:
    request = serving_pb2.PrefetchRequest(tenant="acme", model=name, tier=serving_pb2.TIER_HOST)
    held: serving_pb2.Residency = service.stub.Prefetch(request, metadata=_metadata(fleet))
    return held


def _costs(fleet: Fleet, service: Running, count: int, rank: int) -> dict[str, Any]:
    cache = _home(fleet, FEW) / "cache"
    costs = {kind: _cost(fleet, service, cache, kind, count, rank) for kind in KINDS}
    rows = [
        [kind, *(each / MIB for each in asdict(cost).values()), GIB / cost.allocated, GIB / cost.grown]
        for kind, cost in costs.items()
    ]
    columns = ("adapters", *(f"{name} MiB" for name in Cost.__slots__), "per GiB of disk", "per GiB of host")
    show("One adapter, by what it adapts", columns, rows)
    per_gib = {kind: {"disk": GIB / cost.allocated, "host": GIB / cost.grown} for kind, cost in costs.items()}
    return {"costs": {kind: asdict(cost) for kind, cost in costs.items()}, "adapters_per_gib": per_gib}


def _cost(fleet: Fleet, service: Running, cache: Path, kind: str, count: int, rank: int) -> Cost:
    """Brings adapters in; the first one, which also brings code into memory, is not counted as growth."""
    name = kind.replace(",", "").replace(" ", "-")
    held: list[serving_pb2.Residency] = []
    files: list[int] = []
    before, allocated = 0, 0
    for number in range(count + 1):
        files.append(_publish(fleet, f"{name}-{number}", kind, rank, number))
        held.append(_bring(fleet, service, f"{name}-{number}"))
        if number == 0:
            before, allocated = memory(), _allocated(cache)
    return Cost(
        file=sum(files) / len(files),
        disk=sum(each.disk_bytes for each in held) / len(held),
        allocated=(_allocated(cache) - allocated) / count,
        host=sum(each.host_bytes for each in held) / len(held),
        grown=(memory() - before) / count,
    )


def _used(fleet: Fleet, service: Running) -> int:
    """Has an adapter compute in each slot; returns the memory without what the service says it holds for adapters.

    Comes last: memory of adapters that have left would be used again, and hide what others take.
    """
    for number in range(MANY):
        _bring(fleet, service, f"slot-{number}")
        list(service.token_times("acme", f"slot-{number}", "x", 2))
    return memory() - sum(each.host_bytes for each in _resident(fleet, service))


def _slot(size: float, shape: str, max_rank: int) -> dict[str, Any]:
    parameters = _slot_parameters(shape, max_rank)
    columns = ("", "MiB", "parameters", "bytes each", "per GiB")
    show("\nOne slot", columns, [["slot", size / MIB, parameters, size / parameters, GIB / size]])
    return {"slot_bytes": size, "slot_parameters": parameters}


def _full(fleet: Fleet, service: Running, rank: int, budget: int) -> dict[str, Any]:
    """Brings adapters in until the number in host memory stays what it is."""
    before, most, since, number = 0, 0, 0, 0
    while since < SURE:
        _publish(fleet, f"full-{number}", "q,v", rank, 2000 + number)
        _bring(fleet, service, f"full-{number}")
        if number == 0:
            before = memory()
        number += 1
        held = [each for each in _resident(fleet, service) if each.host_bytes]
        most, since = (len(held), 0) if len(held) > most else (most, since + 1)
    grown = memory() - before
    there = _resident(fleet, service)
    held = [each for each in there if each.host_bytes]
    full = Full(budget, number, len(held), len(there), sum(each.host_bytes for each in held), grown)
    columns = ("budget MiB", "brought", "in host memory", "on disk", "held MiB", "grown MiB", "per GiB")
    row = [budget / MIB, number, full.held, full.on_disk, full.host / MIB, grown / MIB, GIB / grown * (full.held - 1)]
    show("\nA full node", columns, [row])
    return {"full": asdict(full)}


def _resident(fleet: Fleet, service: Running) -> list[serving_pb2.Residency]:
    return list(service.stub.ListResidency(serving_pb2.ListResidencyRequest(), metadata=_metadata(fleet)).adapters)


def _slot_parameters(shape: str, rank: int) -> int:
    """What a slot holds: A and B of the largest rank for every linear layer, used or not."""
    size = SHAPES[shape]
    attention = len(ATTENTION) * 2 * size.width
    return size.layers * rank * (attention + 3 * (size.width + size.inner))


if __name__ == "__main__":
    main()
