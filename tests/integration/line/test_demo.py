"""`graft demo` does what the README shows: three tenants learn, nobody gets another's answers, it can be run again."""

import json
from pathlib import Path

import pytest

from tests.integration.line.conftest import Graft


@pytest.mark.slow
@pytest.mark.thorough
def test_demo_trains_three_tenants_and_serves_them_beside_the_base(graft: Graft, tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    done = graft.run("demo", "--report", str(report_file), timeout=590)
    assert done.returncode == 0, f"{done.stderr}\n{graft.logs()}"
    report = json.loads(report_file.read_text())
    assert report["ok"] is True
    assert len(report["tenants"]) == 3
    for tenant in report["tenants"]:
        assert tenant["base_exact_match"] <= 0.2
        assert tenant["adapter_exact_match"] >= 0.8
        assert tenant["warm_first_token_ms"] > 0
        assert tenant["cold_first_token_ms"] > 0
    assert report["mixed_batch"]["requests"] == 240
    assert report["mixed_batch"]["wrong_tenant_outputs"] == 0
    assert len({tenant["version"] for tenant in report["tenants"]}) == 3
    assert not list(graft.home.glob("run/*.address")), "the demo must stop what it started"
