"""Settings that decide what strangers see, and where spans go."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serving_service.__main__ import _merging
from serving_service.settings import ServingSettings


def made(**settings: Any) -> ServingSettings:
    return ServingSettings(store_url="file:///x", operator_key_file=Path("key"), cache_dir=Path("cache"), **settings)


@pytest.mark.parametrize(
    ("host", "public", "needs"),
    [
        ("127.0.0.1", None, False),
        ("::1", None, False),
        ("localhost", None, False),
        ("0.0.0.0", None, True),
        ("10.0.0.1", None, True),
        ("node.example", None, True),
        ("0.0.0.0", True, False),
        ("127.0.0.1", False, True),
    ],
)
def test_metrics_need_a_key_wherever_others_can_reach_them(host: str, public: bool | None, needs: bool) -> None:
    assert made(http_host=host, metrics_public=public).metrics_need_key is needs


def test_spans_go_to_the_collectors_path(monkeypatch: pytest.MonkeyPatch) -> None:
    assert made().traces_url is None
    assert made(otlp_endpoint="http://c:4318/").traces_url == "http://c:4318/v1/traces"
    assert made(otlp_endpoint="http://c:4317", otlp_protocol="grpc").traces_url == "http://c:4317"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")
    assert made().traces_url == "http://c:4318/v1/traces"
    with pytest.raises(ValidationError):
        made(otlp_protocol="carrier pigeon")


@pytest.mark.parametrize(("trusted", "shares"), [(None, True), (Path("keys.pem"), False)])
def test_a_service_that_trusts_signatures_takes_no_merged_weights_from_the_store(
    trusted: Path | None, shares: bool
) -> None:
    """Nobody signs them, so with them a store could slip in what no signature was made for."""
    store: Any = object()
    engine: Any = object()
    merging = _merging(made(merged_budget_bytes=1, trusted_keys=trusted), "backbone", "0" * 64, engine, store)
    assert merging is not None
    assert (merging.store is store) == shares
