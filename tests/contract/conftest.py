"""Servers of the contract suite."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.rgw import Rgw, missing_programs


@pytest.fixture(scope="session")
def rgw() -> Iterator[Rgw]:
    """A Ceph RGW; without its programs the tests skip on a laptop and fail on CI, where that would hide them."""
    if missing := missing_programs():
        text = f"no S3 server: {', '.join(missing)} not installed (Debian: radosgw ceph-mon ceph-osd)"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    home = Path(tempfile.mkdtemp(prefix="rgw"))
    server = Rgw(home)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
