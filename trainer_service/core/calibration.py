"""How fast a device really trains a backbone: measured by jobs, kept in the state folder, else a stated guess.

One number for a device, a backbone and its bits: operations a second, counted as `cost_model` counts them. Owns the files,
one for each such triple, replaced whole; a newer measurement counts as much as all before it.
"""

import hashlib
import os
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

GUESS = {("cpu", 16): 30e9, ("cpu", 4): 6e9, ("cuda", 16): 150e12, ("cuda", 4): 120e12}
"""Operations a second where nothing was measured: of one thread of a CPU, or of one GPU. Right to within a factor of about 4."""
MIN_SECONDS = 2.0
"""A shorter training says more about its start than about the device."""


class Calibration(BaseModel):
    """What was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flops_per_second: float = Field(gt=0, allow_inf_nan=False)
    seconds: float = Field(ge=0)
    """That the newest measurement took."""
    measurements: int = Field(ge=1)


class Speed(BaseModel):
    """What to reckon with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flops_per_second: float
    measured: bool

    @property
    def source(self) -> str:
        """For people."""
        return "measured on this device" if self.measured else "a guess: nothing was measured on this device yet"


class Calibrations:
    """All measurements of one service."""

    def __init__(self, folder: Path) -> None:
        """Keeps them in `folder`, made when the first one comes."""
        self._folder = folder

    def speed(self, *, device: str, device_name: str, threads: int, base: str, bits: int) -> Speed:
        """Returns the measured speed, or the guess.

        Args:
            device: cpu or cuda.
            device_name: as `device.find_device` says it.
            threads: of a CPU.
            base: digest of the backbone.
            bits: 4 or 16.
        """
        known = self._read(self._file(device, device_name, threads, base, bits))
        if known:
            return Speed(flops_per_second=known.flops_per_second, measured=True)
        guess = GUESS[device, bits] * (threads if device == "cpu" else 1)
        return Speed(flops_per_second=guess, measured=False)

    def record(
        self, flops: float, seconds: float, *, device: str, device_name: str, threads: int, base: str, bits: int
    ) -> None:
        """Keeps a measurement; one that is too short to mean anything is dropped."""
        if seconds < MIN_SECONDS or flops <= 0:
            return
        file = self._file(device, device_name, threads, base, bits)
        known, speed = self._read(file), flops / seconds
        if known:
            speed = (known.flops_per_second + speed) / 2
        made = Calibration(flops_per_second=speed, seconds=seconds, measurements=known.measurements + 1 if known else 1)
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{secrets.token_hex(4)}")  # jobs may end at the same moment
        partial.write_text(made.model_dump_json())
        os.replace(partial, file)

    def _file(self, device: str, device_name: str, threads: int, base: str, bits: int) -> Path:
        identity = f"{device}:{device_name}:{threads if device == 'cpu' else 0}:{base}:{bits}"
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.json"

    def _read(self, file: Path) -> Calibration | None:
        try:
            return Calibration.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):  # none yet, or of another version: the next job measures again
            return None
