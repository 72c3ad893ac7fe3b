"""Each alert fires when what it is for happens, and not before its time, as Prometheus' own rule tester sees it."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import without
from tests.deploy.places import ROOT

RULES = ROOT / "deploy/prometheus/alerts.yaml"
NODE = 'instance="node-1"'

# Alert to (series and their values, one a minute; minutes until it must fire). `a+bxn` is Prometheus' own: a, a+b, ... n times.
CASES: dict[str, tuple[dict[str, str], int]] = {
    "GraftworkServingDown": ({f'up{{job="graftwork-serving", {NODE}}}': "0x30"}, 2),
    "GraftworkNotReady": ({f"graft_ready{{{NODE}}}": "0x30", f"graft_draining{{{NODE}}}": "0x30"}, 15),
    "GraftworkDrained": ({f"graft_draining{{{NODE}}}": "1x90"}, 60),
    "GraftworkEngineDead": ({f'graft_engine_state{{{NODE}, state="dead"}}': "1x30"}, 0),
    "GraftworkStoreAway": ({f"graft_store_reachable{{{NODE}}}": "0x30"}, 2),
    "GraftworkFirstTokenSlow": (
        {
            f'graft_first_token_seconds_bucket{{{NODE}, tier="store", le="5"}}': "0x60",
            f'graft_first_token_seconds_bucket{{{NODE}, tier="store", le="10"}}': "0+60x60",
            f'graft_first_token_seconds_bucket{{{NODE}, tier="store", le="+Inf"}}': "0+60x60",
        },
        11,
    ),
    "GraftworkQueueLong": ({f"graft_requests_waiting{{{NODE}}}": "101x30"}, 10),
    "GraftworkRejections": (
        {
            f'graft_rejections_total{{{NODE}, reason="OverLimit"}}': "0+20x60",
            f'graft_requests_total{{{NODE}, tenant="acme"}}': "0+100x60",
        },
        16,
    ),
    "GraftworkAdaptersChurn": ({f'graft_evictions_total{{{NODE}, tier="host"}}': "0+120x60"}, 30),
    "GraftworkMergeFails": ({f'graft_merged_failures_total{{{NODE}, state="probing", error="Unlike"}}': "0 0 1x30"}, 3),
    "GraftworkEventLoopLate": (
        {
            f'graft_event_loop_lag_seconds_bucket{{{NODE}, le="0.25"}}': "0x60",
            f'graft_event_loop_lag_seconds_bucket{{{NODE}, le="0.5"}}': "0+240x60",
            f'graft_event_loop_lag_seconds_bucket{{{NODE}, le="+Inf"}}': "0+240x60",
        },
        11,
    ),
    "GraftworkTrainerDown": ({f'up{{job="graftwork-trainer", {NODE}}}': "0x30"}, 5),
    "GraftworkInternalErrors": (
        {
            f'graft_rpc_calls_total{{job="graftwork-trainer", {NODE}, method="CreateJob", status="INTERNAL"}}': "0 0 1x30"
        },
        3,
    ),
}


def shipped() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_each_alert_has_its_case() -> None:
    assert CASES.keys() == shipped().keys()


def test_each_alert_says_what_to_do() -> None:
    for name, rule in shipped().items():
        assert rule["labels"]["severity"] in {"page", "ticket"}, name
        assert len(rule["annotations"]["description"]) > 40, name


@pytest.mark.parametrize("alert", CASES)
def test_it_fires_in_time(alert: str, tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        without("promtool is not installed (Debian: prometheus)")
    series, minutes = CASES[alert]
    # At the beginning nothing may fire yet, but for what needs no proof over time.
    test = {"interval": "1m", "input_series": [{"series": name, "values": text} for name, text in series.items()]}
    expression = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)'
    expected = [(0 if minutes else 1, 0), (1, minutes + 1)]
    test["promql_expr_test"] = [
        {"expr": expression, "eval_time": f"{at}m", "exp_samples": [{"labels": "{}", "value": value}]}
        for value, at in expected
    ]
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]})
    )
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
