#!/usr/bin/env python3
"""Writes deploy/grafana/dashboards/*.json: panels are listed here, Grafana's JSON is made from them.

usage: deploy/grafana/make.py
Owns which figures are shown and how. Does not own the metrics (docs/operations.md lists them) nor the alerts.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
NODE = 'instance=~"$instance"'
_COLUMNS = 24
_HEIGHT = 8


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Attributes:
        title: over it.
        about: what it tells, and what to look for.
        queries: PromQL and what a line is called.
        unit: Grafana's name of it.
        width: of 24 columns.
        single: one number, instead of a line over time.
        stacked: areas above each other.
    """

    title: str
    about: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 8
    single: bool = False
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page: rows of panels under their headings."""

    uid: str
    title: str
    job: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    variables: tuple[tuple[str, str], ...] = field(default=())


def quantiles(metric: str, labels: str, by: str, *levels: float) -> tuple[tuple[str, str], ...]:
    """Queries for levels of a histogram, one line for each value of the label `by` ("" for one line)."""
    group = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(
        (
            f"histogram_quantile({level}, sum by ({group}) (rate({metric}_bucket{{{labels}}}[$__rate_interval])))",
            f"{legend}p{level * 100:g}",
        )
        for level in levels
    )


def rate(metric: str, labels: str, by: str) -> tuple[str, str]:
    """A counter's rate for each value of a label."""
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))", f"{{{{{by}}}}}"


TENANT = f'{NODE}, tenant=~"$tenant"'
PROCESS = (
    Panel(
        "Memory", "Resident bytes of the service's own process.", ((f'process_resident_memory_bytes{{job="$job", {NODE}}}', "{{instance}}"),), "bytes", 6
    ),
    Panel(
        "CPU", "Cores that the service's own process uses; vLLM's workers and training jobs are further processes.",
        ((f'rate(process_cpu_seconds_total{{job="$job", {NODE}}}[$__rate_interval])', "{{instance}}"),), "short", 6,
    ),
    Panel("Open files", "A line that only climbs is a leak.", ((f'process_open_fds{{job="$job", {NODE}}}', "{{instance}}"),), "short", 6),
    Panel(
        "Running since", "A restart that nobody asked for shows here.",
        ((f'time() - process_start_time_seconds{{job="$job", {NODE}}}', "{{instance}}"),), "s", 6, single=True,
    ),
)  # fmt: skip
CALLS = (
    Panel("Calls by status", "gRPC calls that ended; HTTP requests are of the service HTTP.", (rate("graft_rpc_calls_total", f'job="$job", {NODE}', "status"),), "reqps", 8, stacked=True),
    Panel("Calls by method", "", (rate("graft_rpc_calls_total", f'job="$job", {NODE}', "method"),), "reqps", 8),
    Panel("Length of calls", "Streams last as long as what they watch.", quantiles("graft_rpc_seconds", f'job="$job", {NODE}', "method", 0.95), "s", 8),
)  # fmt: skip

SERVING = Dashboard(
    "graftwork-serving",
    "Graftwork: serving",
    "graftwork-serving",
    (
        ("Health", (
            Panel("Nodes ready", "Nodes that should get traffic.", ((f"sum(graft_ready{{{NODE}}})", ""),), width=4, single=True),
            Panel("Store", "1 while every node reaches the adapter store.", ((f"min(graft_store_reachable{{{NODE}}})", ""),), width=4, single=True),
            Panel("Running", "Generations under way, those that wait included.", ((f"sum(graft_requests_running{{{NODE}}})", ""),), width=4, single=True),
            Panel("Waiting", "Generations that wait for their turn.", ((f"sum(graft_requests_waiting{{{NODE}}})", ""),), width=4, single=True),
            Panel("Engine", "The state that each node's engine is in.", ((f"graft_engine_state{{{NODE}}} == 1", "{{instance}} {{state}}"),), width=4, single=True),
            Panel("Draining", "Nodes that take no new requests: they stop, or were drained.", ((f"sum(graft_draining{{{NODE}}})", ""),), width=4, single=True),
        )),
        ("Traffic", (
            Panel("Requests by tenant", "Tenants beyond GRAFT_SERVING_METRICS_TENANTS share 'other'; '-' is an operator.", (rate("graft_requests_total", TENANT, "tenant"),), "reqps", stacked=True),
            Panel("Requests by outcome", "ok, cancelled (the caller left), or the error's code.", (rate("graft_requests_total", TENANT, "outcome"),), "reqps", stacked=True),
            Panel("Requests by route", "base: no adapter; swapped: in a slot of the backbone; merged: an engine of its own.", (rate("graft_requests_total", TENANT, "route"),), "reqps", stacked=True),
            Panel("Tokens generated by tenant", "", (rate("graft_completion_tokens_total", TENANT, "tenant"),), "short", stacked=True),
            Panel("Prompt tokens by tenant", "", (rate("graft_prompt_tokens_total", TENANT, "tenant"),), "short", stacked=True),
            Panel("Rejections by reason", "Generations refused before their first token.", (rate("graft_rejections_total", NODE, "reason"),), "reqps", stacked=True),
        )),
        ("Latency", (
            Panel("First token, by tier", "By where the adapter was found. store and disk are cold; none is the base.", quantiles("graft_first_token_seconds", NODE, "tier", 0.5, 0.95), "s"),
            Panel("Whole answer, by route", "From arrival to the last token.", quantiles("graft_request_seconds", NODE, "route", 0.5, 0.95), "s"),
            Panel("Between tokens", "How even streams are.", quantiles("graft_token_gap_seconds", NODE, "", 0.5, 0.95, 0.99), "s"),
            Panel("Waiting in admission", "For a place in the batch, or a slot.", quantiles("graft_queue_seconds", NODE, "", 0.5, 0.95), "s"),
            Panel("Finding the version", "Slow when the store is.", quantiles("graft_resolve_seconds", NODE, "", 0.5, 0.95), "s"),
            Panel("Event loop lag", "What blocks it delays everybody's tokens.", quantiles("graft_event_loop_lag_seconds", NODE, "", 0.5, 0.99), "s"),
        )),
        ("Adapters", (
            Panel("Adapters by tier", "By the fastest tier that holds them.", ((f"sum by (tier) (graft_resident_adapters{{{NODE}}})", "{{tier}}"),), stacked=True),
            Panel("Bytes by tier", "Beside the budgets of disk and host memory.", ((f"sum by (tier) (graft_resident_bytes{{{NODE}}})", "{{tier}}"),), "bytes"),
            Panel("Loads, 95th percentile", "disk: fetched and verified; host: verified again, read and packed; device: into a slot.", quantiles("graft_load_seconds", NODE, "tier", 0.95), "s"),
            Panel("Evictions", "Many of them: a budget is too small for what is in use.", (rate("graft_evictions_total", NODE, "tier"),), "ops"),
            Panel("Bytes freed", "", (rate("graft_evicted_bytes_total", NODE, "tier"),), "Bps"),
            Panel("Merged engines", "Versions that are merged or are to be.", ((f"sum by (state) (graft_merged_engines{{{NODE}}})", "{{state}}"),), stacked=True),
            Panel("Merging", "By merging here, or from the store.", quantiles("graft_merge_seconds", NODE, "source", 0.5, 0.95), "s"),
            Panel("Cut-over", "From the beginning of a merge to its engine's first request.", quantiles("graft_cutover_seconds", NODE, "", 0.5, 0.95), "s"),
            Panel("Merges that failed", "Requests go through the adapter path meanwhile.", ((f"sum by (error) (increase(graft_merged_failures_total{{{NODE}}}[$__rate_interval]))", "{{error}}"),)),
        )),
        ("Calls", CALLS),
        ("Process", (*PROCESS, Panel("What runs", "Version and backbone of each node.", ((f"graft_build_info{{{NODE}}}", "{{instance}} {{version}} {{base_digest}}"),), width=24, single=True))),
    ),
    (("tenant", "label_values(graft_requests_total, tenant)"),),
)  # fmt: skip

TRAINER = Dashboard(
    "graftwork-trainer",
    "Graftwork: trainer",
    "graftwork-trainer",
    (
        ("Health", (
            Panel("Trainers that answer", "", ((f'sum(up{{job="$job", {NODE}}})', ""),), width=6, single=True),
            Panel("Internal errors, last hour", "Faults of ours; the log has each under its request id.", ((f'sum(increase(graft_rpc_calls_total{{job="$job", {NODE}, status="INTERNAL"}}[1h])) or vector(0)', ""),), width=6, single=True),
            Panel("Refused for want of a key, last hour", "", ((f'sum(increase(graft_rpc_calls_total{{job="$job", {NODE}, status="UNAUTHENTICATED"}}[1h])) or vector(0)', ""),), width=6, single=True),
            Panel("Jobs created, last hour", "", ((f'sum(increase(graft_rpc_calls_total{{job="$job", {NODE}, method="CreateJob", status="OK"}}[1h])) or vector(0)', ""),), width=6, single=True),
        )),
        ("Calls", CALLS),
        ("Process", PROCESS),
    ),
)  # fmt: skip


def page(board: Dashboard) -> dict[str, Any]:
    """Returns the dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for heading, members in board.rows:
        panels.append(
            {"type": "row", "title": heading, "collapsed": False, "panels": [], "gridPos": _place(0, y, 24, 1)}
        )
        x, y, tallest = 0, y + 1, 0
        for member in members:
            height = 4 if member.single else _HEIGHT
            if x + member.width > _COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            tallest = max(tallest, height)
            panels.append(_picture(member, _place(x, y, member.width, height)))
            x += member.width
        y += tallest
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "uid": board.uid,
        "title": board.title,
        "tags": ["graftwork"],
        "editable": True,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables(board)},
        "panels": panels,
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _picture(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    if not panel.single:
        defaults["min"] = 0
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
    targets = [
        {
            "refId": chr(ord("A") + number),
            "expr": query,
            "legendFormat": legend or "__auto",
            "instant": panel.single,
            "range": not panel.single,
        }
        for number, (query, legend) in enumerate(panel.queries)
    ]
    options: dict[str, Any] = (
        {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "textMode": "value_and_name" if panel.queries[0][1] else "value",
            "colorMode": "none",
        }
        if panel.single
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    )
    return {
        "type": "stat" if panel.single else "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }  # fmt: skip


def _variables(board: Dashboard) -> list[dict[str, Any]]:
    source = {"type": "prometheus", "uid": "$datasource"}
    found: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        {"name": "job", "label": "Job", "type": "query", "datasource": source, "query": "label_values(graft_rpc_calls_total, job)",
         "refresh": 2, "current": {"text": board.job, "value": board.job}},
    ]  # fmt: skip
    queries = (("instance", 'label_values(up{job="$job"}, instance)'), *board.variables)
    for name, query in queries:
        found.append(
            {"name": name, "label": name.capitalize(), "type": "query", "datasource": source, "query": query, "refresh": 2,
             "includeAll": True, "multi": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
        )  # fmt: skip
    return found


def texts() -> dict[str, str]:
    """Returns each file's text by its name."""
    boards = {"serving.json": SERVING, "trainer.json": TRAINER}
    return {name: json.dumps(page(board), indent=1, ensure_ascii=False) + "\n" for name, board in boards.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text)
