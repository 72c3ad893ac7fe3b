"""How many adapters fit: bytes of one on disk and in host memory, and of one device slot, from the memory that a service takes.

`python -m benchmarks.capacity --json F` publishes adapters of two kinds (query and value; all linear layers), has the service
bring them into host memory, and compares what it says it holds with what its processes have grown by (their share of each
page, Pss). A second service with more slots and no adapters says what a slot costs. `adapters_per_gib` is what the operator's
page quotes. Nothing is timed.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import parser, show, write
from benchmarks.serving_fleet import ATTENTION, LINEAR, SHAPES, Fleet, Running, make_adapter, make_backbone, serve
from graftwork.v1 import serving_pb2

GIB = 1024**3
KINDS = {"q,v": ("q_proj", "v_proj"), "all linear": LINEAR}
FEW, MANY = 2, 18
"""Slots of the two services; the difference is what is measured."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of one adapter, means over all of its kind.

    Attributes:
        file: its `adapter_model.safetensors`, in float32.
        disk, host: what the service says that it holds.
        grown: what the service's processes grew by in host memory.
    """

    file: float
    disk: float
    host: float
    grown: float


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shape", choices=list(SHAPES), default="115m", help="of the backbone (default 115m)")
    options.add_argument("--adapters", type=int, default=24, help="of each kind (default 24)")
    options.add_argument("--rank", type=int, default=16, help="default 16")
    options.add_argument("--max-rank", type=int, default=64, help="the service's, which its slots have (default 64)")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="graft-capacity-") as folder:
        fleet = Fleet(
            Path(folder), make_backbone(Path(folder) / "backbone", SHAPES[asked.shape]), f"file://{folder}/store"
        )
        fleet.tenant("acme")
        settings = {"max_lora_rank": asked.max_rank, "max_model_len": 512, "kv_cache_gib": 0.5}
        with serve(fleet, Path(folder) / "few", max_loras=FEW, **settings) as service:
            idle = memory()
            costs = {kind: _cost(fleet, service, kind, asked.adapters, asked.rank) for kind in KINDS}
        with serve(fleet, Path(folder) / "many", max_loras=MANY, **settings):
            slot = (memory() - idle) / (MANY - FEW)
    predicted = _slot_parameters(asked.shape, asked.max_rank)
    figures: dict[str, Any] = {
        "setting": {**vars(asked), "json": None},
        "costs": {kind: {name: getattr(cost, name) for name in Cost.__slots__} for kind, cost in costs.items()},
        "adapters_per_gib": {kind: {"disk": GIB / cost.disk, "host": GIB / cost.grown} for kind, cost in costs.items()},
        "slot_bytes": slot,
        "slot_parameters": predicted,
    }
    _table(figures, costs)
    write(asked.json, figures)


def memory() -> int:
    """The share that this process's children, and theirs, have of all pages, in bytes."""
    return sum(child.memory_full_info().pss for child in psutil.Process().children(recursive=True))


def _cost(fleet: Fleet, service: Running, kind: str, count: int, rank: int) -> Cost:
    """Brings adapters in; the first one, which also brings code into memory, is not counted as growth."""
    name = kind.replace(",", "").replace(" ", "-")
    metadata = (("authorization", f"Bearer {fleet.operator_key}"),)
    held: list[serving_pb2.Residency] = []
    files, before = [], 0
    for number in range(count + 1):
        folder = fleet.work / f"{name}-{number}"
        make_adapter(folder, fleet.backbone, rank=rank, modules=KINDS[kind], seed=number)
        files.append((folder / "adapter_model.safetensors").stat().st_size)
        fleet.publish("acme", f"{name}-{number}", folder)
        request = serving_pb2.PrefetchRequest(tenant="acme", model=f"{name}-{number}", tier=serving_pb2.TIER_HOST)
        held.append(service.stub.Prefetch(request, metadata=metadata))
        if number == 0:
            before = memory()
    grown = (memory() - before) / count
    return Cost(
        sum(files) / len(files),
        sum(each.disk_bytes for each in held) / len(held),
        sum(each.host_bytes for each in held) / len(held),
        grown,
    )


def _slot_parameters(shape: str, rank: int) -> int:
    """What a slot holds: A and B of the largest rank for every linear layer, used or not."""
    size = SHAPES[shape]
    attention = len(ATTENTION) * 2 * size.width
    return size.layers * rank * (attention + 3 * (size.width + size.inner))


def _table(figures: dict[str, Any], costs: dict[str, Cost]) -> None:
    mib = 1024**2
    rows = [
        [kind, cost.file / mib, cost.disk / mib, cost.host / mib, cost.grown / mib, GIB / cost.disk, GIB / cost.grown]
        for kind, cost in costs.items()
    ]
    columns = ("adapters", "file MiB", "disk MiB", "host MiB", "grown MiB", "per GiB of disk", "per GiB of host")
    show("One adapter, by what it adapts", columns, rows)
    slot, parameters = figures["slot_bytes"], figures["slot_parameters"]
    show(
        "\nOne slot",
        ("", "MiB", "parameters", "bytes each"),
        [["slot", slot / mib, parameters, slot / parameters]],
    )


if __name__ == "__main__":
    main()
