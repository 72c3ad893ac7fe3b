"""A minute of chaos: every invariant holds, and there was something to hold against."""

import json
import os
import random
from collections.abc import Callable

import pytest

from tests.chaos.run import Options, run
from tests.conftest import without
from tests.contract.rgw import missing_programs

pytestmark = [pytest.mark.slow, pytest.mark.s3, pytest.mark.thorough, pytest.mark.timeout(1800)]

SECONDS = 60.0


def test_a_minute_of_chaos_breaks_nothing(record_property: Callable[[str, object], None]) -> None:
    if missing := missing_programs():
        without(f"no S3 server: {', '.join(missing)} not installed (Debian: radosgw ceph-mon ceph-osd)")
    seed = int(os.environ.get("GRAFT_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    told: list[str] = [f"seed {seed}"]
    found = run(Options(SECONDS, seed, told.append))
    record_property("chaos", json.dumps(told))
    assert not {name: wrong for name, wrong in found.items() if wrong}, told
