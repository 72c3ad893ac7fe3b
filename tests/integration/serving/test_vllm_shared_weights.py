"""Packed weights can be exchanged for shared memory without a bit of difference; where vLLM's objects are not as we know
them, nothing is touched."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("what", ["shared", pytest.param("elsewhere", marks=pytest.mark.thorough)])
def test_weights_are_shared_to_the_bit_or_left_alone(what: str) -> None:
    program = Path(__file__).with_name("shared_weights_program.py")
    done = subprocess.run([sys.executable, str(program), what], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    assert done.stdout.strip().endswith("ok")
