"""A cold load holds up nobody: the engine goes on decoding while an adapter's bytes do not come."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.serving.serving_world import World

pytestmark = pytest.mark.slow


def test_the_engine_decodes_while_an_adapter_is_being_read(world: World, tmp_path: Path) -> None:
    program = Path(__file__).with_name("staging_program.py")
    command = [sys.executable, str(program), str(world.backbone), str(world.folders["acme"]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip().endswith("ok"), done.stdout
