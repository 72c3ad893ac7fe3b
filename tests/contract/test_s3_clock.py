"""A machine whose clock is wrong: the store refuses every signature of it, and that passes with the clock's being set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from minio import Minio

from tests.chaos.clock import JumpingClock
from tests.conftest import without
from tests.contract.rgw import Rgw

pytestmark = pytest.mark.s3

_CHILD = """
import sys
from adapter_store import open_store
from adapter_store.errors import StoreUnavailable
store = open_store(sys.argv[1])
print("open", flush=True)
for _ in sys.stdin:
    for ask in (store.ping, lambda: store._backend.entry("v1/none")):  # one whose refusal has a body, and one without
        try:
            ask()
        except StoreUnavailable as error:
            print(error, flush=True)
        else:
            print("answered", flush=True)
"""


def test_a_wrong_clock_is_an_outage_that_says_so_and_ends_with_it(rgw: Rgw, tmp_path: Path) -> None:
    if not JumpingClock.is_possible():
        without("no compiler for the clock's shim: cc is not installed")
    keys = {"AWS_ACCESS_KEY_ID": rgw.access_key, "AWS_SECRET_ACCESS_KEY": rgw.secret_key}
    host = rgw.endpoint.removeprefix("http://")
    Minio(host, rgw.access_key, rgw.secret_key, secure=False, region="us-east-1").make_bucket("clocks")
    clock = JumpingClock(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, f"s3://clocks/graft?endpoint={rgw.endpoint}&region=us-east-1"],
        env=os.environ | clock.environment | keys,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        said = []
        for jump in (3_600.0, -86_400.0, 0.0):
            clock.set(jump)
            child.stdin.write("\n")
            child.stdin.flush()
            said += [child.stdout.readline(), child.stdout.readline()]
        child.stdin.close()
    assert ["clock is wrong" in text for text in said] == [True, True, True, True, False, False], said
    assert said[-2:] == ["answered\n"] * 2
