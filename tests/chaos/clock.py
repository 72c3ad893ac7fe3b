"""The wall clock of the processes under test, which may be set forward and back while they run (`clock_shim.c`)."""

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock_shim.c")


class JumpingClock:
    """Builds the shim in a folder; processes started with `environment` have this clock.

    Args:
        folder: stays for as long as the processes run.

    Raises:
        subprocess.CalledProcessError: the compiler refused the shim.
    """

    def __init__(self, folder: Path) -> None:
        library, offset = folder / "clock_shim.so", folder / "clock_offset"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, _SOURCE, "-ldl"], check=True)
        offset.write_bytes(struct.pack("d", 0))
        with offset.open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(offset)}

    @staticmethod
    def is_possible() -> bool:
        """Tells whether there is a compiler."""
        return shutil.which("cc") is not None

    def set(self, seconds: float) -> None:
        """Sets the clock so many seconds ahead of the true one (behind, if negative)."""
        self._offset[:] = struct.pack("d", seconds)
