"""What an alias's records look like in the store: nodes of two releases read them while one is upgraded after the other."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from adapter_store.documents import decode, encode
from adapter_store.manifest import NO_TARGET, AliasRecord, LatencyTarget

BEFORE_TARGETS = {
    *("number", "tenant", "adapter", "alias", "version", "by", "reason", "at"),
    *("requests", "removed", "restores", "split", "route"),
}
"""Fields that a release without latency targets knows; it refuses a record with any other."""


def record(**fields: Any) -> AliasRecord:
    about = {"number": 1, "tenant": "acme", "adapter": "task", "alias": "prod", "version": "a" * 64}
    return AliasRecord.model_validate(about | {"by": "tests", "reason": "", "at": datetime.now(UTC)} | fields)


@pytest.mark.parametrize("route", ["swapped", "merged"])
def test_a_record_without_a_target_is_one_that_the_release_before_reads(route: str) -> None:
    assert set(json.loads(encode(record(route=route)))["body"]) == BEFORE_TARGETS


@pytest.mark.parametrize("target", [NO_TARGET, LatencyTarget(first_token_ms=200)])
def test_a_target_is_what_was_written(target: LatencyTarget) -> None:
    written = record(route="auto", target=target)
    assert decode(AliasRecord, encode(written), "the record") == written
