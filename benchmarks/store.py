"""The adapter store beside the plain client: publish and fetch an adapter, resolve an alias, list many adapters.

`publish_ratio` and `fetch_ratio` are our MB/s over the peer's in the same run, runs of both in turn. The peer on S3 is the
minio client's own put and get of the same bytes to and from a file; on the filesystem it is a copy and an fsync. Ours
includes every check at the door, hashing, the manifest, and verification of what comes back.

An S3 server is started for the run (Ceph RGW, in memory), unless --store names one: s3://bucket/prefix?endpoint=...
"""

import json
import os
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from minio import Minio
from safetensors.numpy import save_file

from adapter_store import AdapterStore, Provenance, open_store, read_base
from adapter_store.backends.open import open_backend
from adapter_store.base import BaseInfo
from benchmarks.counted import CountedBackend
from benchmarks.report import Spread, parser, show, write
from benchmarks.store_listing import listing

MADE = Provenance(made_by="benchmark")
RANK, LAYERS = 16, 32
MODULES = {  # of Llama-3.1-8B, (out, in); all of them at rank 16 in 16 bits are 84 MB
    "q_proj": (4096, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096), "o_proj": (4096, 4096),
    "gate_proj": (14336, 4096), "up_proj": (14336, 4096), "down_proj": (4096, 14336),
}  # fmt: skip
MEGA = 1e6


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=7, help="of each side (default 7)")
    options.add_argument("--store", help="an S3 store to use instead of starting one")
    options.add_argument("--adapters", type=int, default=10_000, help="adapters to list, of a tenth as many tenants")
    options.add_argument("--only", choices=("transfer", "resolve", "listing"), action="append")
    asked = options.parse_args()
    parts = asked.only or ["transfer", "resolve", "listing"]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="graft-benchmark-") as folder, s3_url(asked.store) as url:
        work = Path(folder)
        base = read_base(_backbone(work / "base"))
        for kind, place in (("s3", url), ("filesystem", f"file://{work / 'store'}")):
            found = figures[kind] = {}
            store = open_store(place)
            if "transfer" in parts:
                found |= transfer(store, place, base, work / kind, asked.runs)
            if "resolve" in parts:
                found["resolve"] = resolve(place, base, work / f"{kind}-resolve")
            if "listing" in parts:
                found["listing"] = listing(place, asked.adapters)
    if "transfer" in parts:
        figures["publish_ratio"] = figures["s3"]["publish_ratio"].median
        figures["fetch_ratio"] = figures["s3"]["fetch_ratio"].median
    _tables(figures, parts)
    write(asked.json, figures)


def transfer(store: AdapterStore, place: str, base: BaseInfo, work: Path, runs: int) -> dict[str, Any]:
    """Publishes and fetches adapters of 80 MB, each beside the peer's way with the same bytes."""
    store.tenants.create("bench")
    peer = _Peer(place, work / "peer")
    times: dict[str, list[float]] = {"publish": [], "peer_publish": [], "fetch": [], "peer_fetch": []}
    size = 0
    for run in range(-1, runs):  # the first of all warms connections and caches up
        folder = _adapter(work / f"adapter{run}", run)
        weights = folder / "adapter_model.safetensors"
        size = weights.stat().st_size
        made: list[Any] = []
        sides = {
            "publish": lambda folder=folder, made=made: made.append(
                store.versions.publish("bench", "adapter", folder, base=base, made=MADE)
            ),
            "peer_publish": lambda weights=weights, run=run: peer.put(weights, f"peer{run}"),
        }
        seconds = _in_turn(sides, run)
        sides = {
            "fetch": lambda made=made, run=run: store.versions.fetch(made[0], work / f"fetched{run}"),
            "peer_fetch": lambda run=run: peer.get(f"peer{run}", work / f"peer-fetched{run}"),
        }
        seconds |= _in_turn(sides, run)
        if run >= 0:
            for name, value in seconds.items():
                times[name].append(value)
        for left in work.glob(f"*{run}"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    speeds = {name: [size / MEGA / value for value in values] for name, values in times.items()}
    ratios = {
        f"{what}_ratio": Spread.of(
            [ours / theirs for ours, theirs in zip(speeds[what], speeds[f"peer_{what}"], strict=True)]
        )
        for what in ("publish", "fetch")
    }
    return {
        "adapter_mb": size / MEGA,
        **{f"{name}_mb_s": Spread.of(values) for name, values in speeds.items()},
        **ratios,
    }


def resolve(place: str, base: BaseInfo, work: Path) -> dict[str, Any]:
    """Resolves an alias, cold through the store and warm through serving's router; counts the store's requests."""
    import asyncio

    from serving_service.core.routing import Router

    counted = CountedBackend(open_backend(place))
    store = AdapterStore(counted)
    store.tenants.create("resolver")
    small = _adapter(work, 0, rank=1)
    version = store.versions.publish("resolver", "adapter", small, base=base, made=MADE).version
    store.aliases.set("resolver", "adapter", "prod", version, by="benchmark", reason="")

    def timed(call: Callable[[], object], times: int) -> tuple[float, float]:
        taken, before = [], counted.requests
        for _ in range(times):
            start = time.perf_counter()
            call()
            taken.append((time.perf_counter() - start) * 1e3)
        return statistics.median(taken), (counted.requests - before) / times

    cold_ms, cold_requests = timed(lambda: store.targets("resolver", "adapter"), 200)

    async def warm() -> tuple[float, float]:
        router = Router(store, base_digest=base.digest, max_lora_rank=64, alias_seconds=1.0)
        await router.resolve("resolver", "adapter")
        taken, before = [], counted.requests
        for _ in range(2000):
            start = time.perf_counter()
            await router.resolve("resolver", "adapter")
            taken.append((time.perf_counter() - start) * 1e3)
        return statistics.median(taken), float(counted.requests - before)

    warm_ms, warm_requests = asyncio.run(warm())
    return {
        "cold_p50_ms": cold_ms, "cold_requests": cold_requests, "warm_p50_ms": warm_ms, "warm_requests": warm_requests,
    }  # fmt: skip


@contextmanager
def s3_url(given: str | None) -> Iterator[str]:
    """Yields a store URL below a prefix of its own; starts a server when none is given."""
    if given:
        before, mark, options = given.partition("?")
        yield f"{before.rstrip('/')}/benchmark-{secrets.token_hex(4)}{mark}{options}"
        return
    from tests.contract.rgw import Rgw

    home = Path(tempfile.mkdtemp(prefix="rgw"))
    server = Rgw(home, capacity=8 << 30)
    try:
        server.start()
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = server.access_key, server.secret_key
        host = server.endpoint.removeprefix("http://")
        Minio(host, server.access_key, server.secret_key, secure=False, region="us-east-1").make_bucket("benchmark")
        yield f"s3://benchmark/store?endpoint={server.endpoint}&region=us-east-1"
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


class _Peer:
    """The plain way with the same bytes."""

    def __init__(self, place: str, folder: Path) -> None:
        parts = urlsplit(place)
        self._bucket, self._folder, self._client = parts.netloc, folder, None
        if parts.scheme == "s3":
            endpoint = urlsplit(parse_qs(parts.query)["endpoint"][0])
            keys = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
            self._client = Minio(endpoint.netloc, *keys, secure=endpoint.scheme == "https", region="us-east-1")
        else:
            folder.mkdir(parents=True)

    def put(self, file: Path, name: str) -> None:
        if self._client:
            self._client.fput_object(self._bucket, f"peer/{name}", str(file))
        else:
            _copy(file, self._folder / name)

    def get(self, name: str, dest: Path) -> None:
        if self._client:
            self._client.fget_object(self._bucket, f"peer/{name}", str(dest))
        else:
            _copy(self._folder / name, dest)


def _copy(source: Path, dest: Path) -> None:
    shutil.copyfile(source, dest)
    with dest.open("rb") as file:
        os.fsync(file.fileno())


def _in_turn(sides: dict[str, Callable[[], object]], run: int) -> dict[str, float]:
    """Times each side once, the first one first in even runs; the disk is quiet before each."""
    seconds = {}
    for name in list(sides) if run % 2 == 0 else list(sides)[::-1]:
        os.sync()
        start = time.perf_counter()
        sides[name]()
        seconds[name] = time.perf_counter() - start
    return seconds


def _backbone(folder: Path) -> Path:
    """Only what the checks read: config.json, and names of packed tensors, whose shapes follow from it."""
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
              "num_hidden_layers": LAYERS, "intermediate_size": 14336}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    save_file({f"model.{name}.weight": np.zeros((1, 1), np.uint8) for name in _modules()}, folder / "model.safetensors")
    return folder


def _adapter(folder: Path, seed: int, rank: int = RANK) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed + 1)
    tensors = {}
    for name in _modules():
        out, into = MODULES[name.rsplit(".", 1)[-1]]
        for half, shape in (("A", (rank, into)), ("B", (out, rank))):
            values = random.standard_normal(shape, np.float32).astype(np.float16)
            tensors[f"base_model.model.model.{name}.lora_{half}.weight"] = values
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(MODULES),
                "bias": "none", "task_type": "CAUSAL_LM", "lora_dropout": 0.0}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def _modules() -> list[str]:
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    return [
        f"layers.{layer}.{'self_attn' if leaf in attention else 'mlp'}.{leaf}"
        for layer in range(LAYERS)
        for leaf in MODULES
    ]


def _tables(figures: dict[str, Any], parts: list[str]) -> None:
    kinds = [kind for kind in ("s3", "filesystem") if kind in figures]
    if "transfer" in parts:
        rows = [
            [kind, figures[kind][f"{what}_mb_s"], figures[kind][f"peer_{what}_mb_s"], figures[kind][f"{what}_ratio"]]
            for what in ("publish", "fetch")
            for kind in kinds
        ]
        named = [
            [f"{what} {row[0]}", *row[1:]] for what, row in zip(["publish"] * 2 + ["fetch"] * 2, rows, strict=True)
        ]
        show("An adapter of 84 MB, MB/s: median (least to most)", ("", "ours", "plain client", "ratio"), named)
    if "resolve" in parts:
        rows = [[kind, *(figures[kind]["resolve"].values())] for kind in kinds]
        show("Alias to version", ("", "cold p50 ms", "requests", "warm p50 ms", "requests"), rows)
    if "listing" in parts:
        rows = [[kind, *figures[kind]["listing"].values()] for kind in kinds]
        columns = ("", *(name.replace("_", " ") for name in figures[kinds[0]]["listing"]))
        show("Listing", columns, rows)


if __name__ == "__main__":
    main()
