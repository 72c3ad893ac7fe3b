"""The merged route through the whole gateway beside a bare engine: gRPC client, service, engine of merged weights.

The bare engine has no LoRA and answers over a Unix socket, a line a piece, the least that any client and server in two
processes need; both get the same requests from this process. Their rounds are short and in turn, so that two neighbours meet
the same machine, and only one of the two computes at a time. Before them the alias is promoted, and cut over to a second version,
under load. Owns the service and the pairs; `cutover` the load meanwhile.
"""

import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gateway.load import Figures, Load, measure, seeds
from benchmarks.gateway.senders import over_grpc, over_socket
from benchmarks.multi_lora.cutover import Traffic
from benchmarks.multi_lora.engines import EngineProcess
from benchmarks.multi_lora.world import RANK, World
from benchmarks.report import Spread
from benchmarks.serving_fleet import Fleet, Running, serve
from graftwork.v1 import serving_pb2

TENANT, ADAPTER, ALIAS = "bench", "task", "prod"
GIB = 2**30
QUIET = 0.1
"""Of the machine's CPU time that others may use in a round of a pair that counts; all count where no pair has less."""
_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Pair:
    """One short round of each side, the same load in new words."""

    bare: Figures
    merged: Figures

    @property
    def ratio(self) -> float:
        """Tokens a second of the merged route, over the bare engine's."""
        return self.merged.tokens_per_s / self.bare.tokens_per_s

    @property
    def cpu_ratio(self) -> float:
        """The ratio that follows from CPU time alone, where both cores are always busy."""
        bare, merged = self.bare, self.merged
        return (1 + (bare.front_us + bare.client_us) / bare.engine_us) / (
            1 + (merged.front_us + merged.client_us) / merged.engine_us
        )

    @property
    def others(self) -> float:
        return max(self.bare.others, self.merged.others)


async def beside_bare(
    bare: EngineProcess, socket: Path, world: World, work: Path, loads: dict[str, tuple[int, int]], asked: Any
) -> dict[str, Any]:
    """Measures; returns the figures by their names in the issue, and what they are from."""
    (work / "store").mkdir(parents=True)
    fleet = Fleet(work, world.backbone, (work / "store").as_uri())
    fleet.tenant(TENANT)
    first = fleet.publish(TENANT, ADAPTER, world.adapters[0])
    settings: dict[str, object] = {
        "merged_budget_bytes": 64 * GIB,
        "max_merged": 2,
        "max_lora_rank": RANK,
        "kv_cache_gib": 0.5,
    }
    settings |= {"http_address_file": work / "http.address"}
    with serve(fleet, work / "service", **settings) as service:
        print("the service is up", file=sys.stderr)
        model = f"{ADAPTER}:{ALIAS}"
        figures = await _cut_over(fleet, service, world, model, first)
        figures |= _told_by(service, work / "http.address")
        senders = over_socket(str(socket)), over_grpc(service.address, fleet.keys[TENANT], model)
        figures |= await _pairs(bare, service, senders, world.vocabulary, loads, asked)
    return figures


async def _cut_over(fleet: Fleet, service: Running, world: World, model: str, first: str) -> dict[str, Any]:
    """Promotes the alias, then moves it to another version, requests under way all the time."""
    merged = serving_pb2.Route.Name(serving_pb2.ROUTE_MERGED)
    key = fleet.keys[TENANT]
    async with Traffic(service.address, key, model, world.vocabulary, {first}) as traffic:
        await traffic.until("answers of the adapter", lambda: traffic.answered.total() >= 8, _SECONDS)
        fleet.store.aliases.set_route(TENANT, ADAPTER, ALIAS, "merged", by="benchmark", reason="")
        await traffic.until("the merged route", lambda: traffic.answered[merged, first] >= 8, _SECONDS)
        print(f"promoted under load: {dict(traffic.answered)}", file=sys.stderr)
        second = fleet.publish(TENANT, ADAPTER, world.adapters[1 % len(world.adapters)])
        traffic.versions.add(second)
        await traffic.until("the new version's merged route", lambda: traffic.answered[merged, second] >= 8, _SECONDS)
        await traffic.until("only one engine", lambda: [row.version for row in _rows(service)] == [second], _SECONDS)
    print(f"cut over under load: {dict(traffic.answered)}, errors {dict(traffic.errors)}", file=sys.stderr)
    by_route: dict[str, int] = {}
    for (route, _), count in traffic.answered.items():
        by_route[route] = by_route.get(route, 0) + count
    return {
        "cutover_errors": traffic.errors.total(),
        "cutover": {
            "answers": by_route,
            "errors": dict(traffic.errors),
            "build_seconds": _rows(service)[0].build_seconds,
        },
    }


def _rows(service: Running) -> list[serving_pb2.Merged]:
    metadata = (("authorization", f"Bearer {service.fleet.operator_key}"),)
    answer = service.stub.ListResidency(serving_pb2.ListResidencyRequest(), metadata=metadata, timeout=30)
    return list(answer.merged)


def _told_by(service: Running, http_address: Path) -> dict[str, Any]:
    """What the service itself says of its merges, with the requests under way that were."""
    with urllib.request.urlopen(f"http://{http_address.read_text().strip()}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    told = {name: value for name, _, value in (line.rpartition(" ") for line in lines)}
    merges, seconds = (float(told[f'graft_merge_seconds_{of}{{source="merged"}}']) for of in ("count", "sum"))
    return {"merge_seconds": seconds / merges}


async def _pairs(
    bare: EngineProcess, service: Running, senders: Any, vocabulary: int, loads: dict[str, tuple[int, int]], asked: Any
) -> dict[str, Any]:
    seed = seeds()
    sides = list(zip(("bare", "merged"), senders, (bare.pid, service.pid), strict=True))
    uses, sent = _rows(service)[0].uses, 0
    found: dict[str, dict[str, Any]] = {}
    for load, (prompt, answer) in loads.items():
        pairs = []
        for number in range(asked.merged_rounds + 1):
            round_of: dict[str, Figures] = {}
            for name, send, pid in sides if number % 2 else reversed(sides):
                what = Load(1, asked.requests, asked.requests, prompt, answer, vocabulary, seed())
                round_of[name] = await measure(what, send, pid)
            sent += 1 + asked.requests
            if number:  # the first is for connections, allocators and caches
                pairs.append(Pair(**round_of))
                print(f"{load}, pair {number}: {pairs[-1].ratio:.3f}, {round_of}", file=sys.stderr)
        found[load] = _of(pairs)
    if (used := _rows(service)[0].uses - uses) != sent:
        raise SystemExit(f"{used} of {sent} requests went to the merged engine: the figures are of something else")
    return {"merged_over_bare": min(one["ratio"].median for one in found.values()), "merged": found}


def _of(pairs: list[Pair]) -> dict[str, Any]:
    counted = [pair for pair in pairs if pair.others < QUIET] or pairs

    def spread(of: Any) -> Spread:
        return Spread.of([of(pair) for pair in counted])

    return {
        "ratio": spread(lambda pair: pair.ratio),
        "cpu_ratio": spread(lambda pair: pair.cpu_ratio),
        "first_token_added_ms": spread(lambda pair: pair.merged.first_token_ms - pair.bare.first_token_ms),
        "tokens_per_s": spread(lambda pair: pair.merged.tokens_per_s),
        "bare_tokens_per_s": spread(lambda pair: pair.bare.tokens_per_s),
        "front_us": spread(lambda pair: pair.merged.front_us),
        "bare_front_us": spread(lambda pair: pair.bare.front_us),
        "engine_us": spread(lambda pair: pair.merged.engine_us),
        "bare_engine_us": spread(lambda pair: pair.bare.engine_us),
        "ratio_of_all_pairs": median(pair.ratio for pair in pairs),
    }
