"""A small disk for the home folder, which can be filled up: a tmpfs of its own, where mounting is allowed."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self

SIZE = "768m"


class SmallDisk:
    """Mounted at `folder` while entered; a plain folder, that cannot be filled, where mounting is not allowed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.can_be_filled = False
        self._filler = folder / "filler"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "graft-chaos", str(self.folder)]
        self.can_be_filled = subprocess.run(command, capture_output=True, check=False).returncode == 0
        return self

    def __exit__(self, *_: object) -> None:
        if self.can_be_filled:
            # Lazily: what an invariant found still running may hold a file, and that is already reported.
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        """Leaves not one byte."""
        free = os.statvfs(self.folder)
        file = os.open(self._filler, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(file, 0, max(1, free.f_bavail * free.f_frsize // 2))  # quick; the rest by writing
            os.lseek(file, 0, os.SEEK_END)
            with suppress(OSError):  # full: what was wanted
                while os.write(file, bytes(1 << 20)):
                    pass
        finally:
            os.close(file)

    def empty(self) -> None:
        """Gives the space back."""
        self._filler.unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """Bytes of all files in the folder."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file() and path != self._filler)
