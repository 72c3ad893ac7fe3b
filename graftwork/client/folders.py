"""Adapter folders on this machine: which files of one are sent, and how a downloaded one comes to be.

Owns the choice of files of a PEFT folder or a Hugging Face style repository, and refusing what could mean another file
than it says. Does not own the checks of the content: the service's door does those.
"""

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ClassVar

from graftwork.errors import ErrorCode, GraftError

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_TOKENIZER_FILE = "tokenizer_config.json"
_MAX_TOKENIZER_BYTES = 64 << 20
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# What a training run leaves beside its adapter. Pickled too, but no weights: not sent, and no reason to refuse.
_LEFTOVERS = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state")


class InvalidFolder(GraftError):
    """A folder that cannot be sent or written, and what to do about it."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID


class DamagedDownload(GraftError):
    """What arrived is not what the version's manifest names."""

    code: ClassVar[ErrorCode] = ErrorCode.CORRUPT


def adapter_files(folder: Path) -> dict[str, Path | bytes]:
    """Returns what to send of an adapter folder: names and where their bytes are.

    Args:
        folder: as PEFT saves it, or a clone of a repository that holds an adapter. Other files and folders stay here. A
            chat template inside tokenizer_config.json counts when there is none in a file of its own.

    Raises:
        InvalidFolder: no folder, a symbolic link in it, pickled weights, or no adapter.
        OSError: it cannot be read.
    """
    if not folder.is_dir():
        raise InvalidFolder(f"{folder} is no folder; name the one that holds {WEIGHTS_FILE}")
    entries = {entry.name: entry for entry in os.scandir(folder)}
    for name in sorted(entries):
        if entries[name].is_symlink():
            raise InvalidFolder(
                f"{name} in {folder} is a symbolic link, which could lead anywhere; copy the folder with `cp -rL` first"
            )
        if name.lower().endswith(_PICKLES) and not name.startswith(_LEFTOVERS):
            raise InvalidFolder(
                f"{name} in {folder}: pickled weights can run code and are refused; save as safetensors"
            )
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if name not in entries:
            raise InvalidFolder(f"{folder} lacks {name}; give a folder as PEFT's save_pretrained writes it")
    found: dict[str, Path | bytes] = {name: folder / name for name in (CONFIG_FILE, WEIGHTS_FILE)}
    if TEMPLATE_FILE in entries:
        found[TEMPLATE_FILE] = folder / TEMPLATE_FILE
    elif _TOKENIZER_FILE in entries and (template := _template_of(folder / _TOKENIZER_FILE)):
        found[TEMPLATE_FILE] = template.encode()
    return found


def open_plain(file: Path) -> BinaryIO:
    """Opens a regular file without following a link that took its place since it was listed.

    Raises:
        InvalidFolder: a link, a device, a pipe, a folder.
        OSError: it cannot be read.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would otherwise wait for ever
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise InvalidFolder(f"{file} went away meanwhile") from None
    source = os.fdopen(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        source.close()
        raise InvalidFolder(f"{file} is no plain file")
    return source


def plain_size(source: Path | bytes) -> int:
    """Returns the bytes of what `adapter_files` found. Raises like `open_plain`."""
    if isinstance(source, bytes):
        return len(source)
    with open_plain(source) as file:
        return os.fstat(file.fileno()).st_size


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder to fill that becomes `folder` when all went well, and is gone when not.

    Raises:
        InvalidFolder: `folder` is there and not empty.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidFolder(f"{folder} exists already; name a new or empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial-{secrets.token_hex(4)}")
    partial.mkdir()
    try:
        yield partial
        partial.rename(folder)  # replaces an empty folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class Receiver:
    """Writes the files of a download and holds them to their digests.

    Args:
        folder: where they go.
        expected: (name, sha256 in hex, bytes) of each file.
    """

    def __init__(self, folder: Path, expected: Sequence[tuple[str, str, int]]) -> None:
        self._folder = folder
        self._expected = {name: (digest, size) for name, digest, size in expected}
        self._name, self._seen, self._size = "", hashlib.sha256(), 0
        self._file: BinaryIO | None = None

    def begin(self, name: str) -> None:
        """Begins the next file. Raises DamagedDownload when the one before is not as expected, or this one is not."""
        self._finish()
        # A name from the network becomes a path: only what was announced, and nothing with a folder in it.
        if name not in self._expected or Path(name).name != name:
            raise DamagedDownload(f"the service sent a file {name!r:.80} that the version does not have")
        self._name, self._seen, self._size = name, hashlib.sha256(), 0
        self._file = (self._folder / name).open("xb")

    def write(self, chunk: bytes) -> None:
        """Adds bytes to the file that was begun last."""
        if self._file is None:
            raise DamagedDownload("the service sent bytes before a file's name")
        self._seen.update(chunk)
        self._size += len(chunk)
        self._file.write(chunk)

    def finish(self) -> None:
        """Ends the download. Raises DamagedDownload when a file is missing or not as expected."""
        self._finish()
        if self._expected:
            raise DamagedDownload(f"the download ended before {', '.join(sorted(self._expected))}; try again")

    def _finish(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if self._expected.pop(self._name) != (self._seen.hexdigest(), self._size):
            raise DamagedDownload(f"{self._name} arrived damaged; try again")


def _template_of(file: Path) -> str:
    with open_plain(file) as source:
        text = source.read(_MAX_TOKENIZER_BYTES)
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidFolder(f"{file} is not JSON; mend it, or put the template into {TEMPLATE_FILE}") from None
    template = settings.get("chat_template") if isinstance(settings, dict) else None
    return template if isinstance(template, str) else ""
