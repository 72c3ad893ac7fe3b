"""Logging never fails what it tells of."""

import subprocess
import sys


def test_a_log_on_a_full_disk_raises_nothing() -> None:
    code = (
        "import structlog; from graftwork.logs import configure_logs; configure_logs('x');"
        "structlog.get_logger().info('a'); print('went on')"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, text=True, timeout=60)
    assert done.stdout == "went on\n"
