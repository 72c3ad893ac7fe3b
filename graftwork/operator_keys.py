"""The file of operators' keys: who may operate this installation, and who may only look.

Owns the file's form, reading and changing it. Does not own what a role may do (`graftwork.rpc`), nor when a service reads it
again (`adapter_store.api.keyring`). One key a line:

    gwop_... [operator|viewer] [name]            a key itself; the first one is what commands on this machine use
    sha256:<64 hex digits> [operator|viewer] [name]   only its hash, for everybody else's keys
    # a comment
"""

import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from graftwork.errors import ErrorCode, GraftError
from graftwork.rpc.auth import OPERATOR_PREFIX, Role

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_HASH = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
_RANDOM_BYTES = 24  # 192 bits: nothing to guess, so a plain sha256 is a sufficient hash


class InvalidOperatorKeys(GraftError):
    """A key file that cannot be changed as asked."""

    code: ClassVar[ErrorCode] = ErrorCode.PRECONDITION


class NoSuchOperator(GraftError):
    """No key of that name or id in the file."""

    code: ClassVar[ErrorCode] = ErrorCode.NOT_FOUND


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """One key of the file.

    Attributes:
        digest: sha256 of its text.
        role: operator or viewer.
        name: whose it is; empty where the file says none.
        plain: the file holds the key itself.
    """

    digest: bytes
    role: Role
    name: str
    plain: bool

    @property
    def id(self) -> str:
        """Names it in records and lists."""
        return self.digest.hex()[:16]


def new_key() -> str:
    """Makes a key."""
    return f"{OPERATOR_PREFIX}{secrets.token_hex(_RANDOM_BYTES)}"


def digest_of(key: str) -> bytes:
    """Returns the hash that a key is compared by."""
    return hashlib.sha256(key.encode()).digest()


def parse(text: str) -> tuple[list[OperatorKey], list[int]]:
    """Returns the keys of a file's text, and the numbers of the lines that are none; those are to be left out, not guessed at."""
    found, wrong = [], []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            key = _parse(words)
            if key is None:
                wrong.append(number)
            else:
                found.append(key)
    return found, wrong


def first_plain(text: str) -> str | None:
    """Returns the first key that a file's text holds itself, for those who call with it; None when it has none."""
    words = (line.partition("#")[0].split() for line in text.splitlines())
    return next((line[0] for line in words if line and line[0].startswith(OPERATOR_PREFIX) and _parse(line)), None)


def _parse(words: list[str]) -> OperatorKey | None:
    key, *rest = words
    role = Role.OPERATOR
    if rest and rest[0] in (Role.OPERATOR, Role.VIEWER):
        role = Role(rest.pop(0))
    name = rest.pop(0) if rest else ""
    if rest or (name and not NAME.fullmatch(name)):
        return None
    hashed = _HASH.fullmatch(key)
    if hashed:
        return OperatorKey(bytes.fromhex(hashed[1]), role, name, plain=False)
    if not key.startswith(OPERATOR_PREFIX):
        return None
    return OperatorKey(digest_of(key), role, name, plain=True)


@dataclass(frozen=True, slots=True)
class OperatorKeyFile:
    """The file, to be looked at and changed by whoever may write it. Services take a change within a second.

    Attributes:
        path: where it lies; readable by its owner only.
    """

    path: Path

    def read(self) -> list[OperatorKey]:
        """Returns the keys in the file's order.

        Raises:
            InvalidOperatorKeys: it has a line that is no key.
            OSError: it cannot be read.
        """
        found, wrong = parse(self.path.read_text())
        if wrong:
            raise InvalidOperatorKeys(
                f"line {wrong[0]} of {self.path} is no key: write 'gwop_... [operator|viewer] [name]' or 'sha256:... ...'"
            )
        return found

    def add(self, name: str, role: Role) -> str:
        """Makes a key for somebody and returns its text, of which the file keeps the hash only.

        Raises:
            InvalidOperatorKeys: the name is none or is taken; the file is damaged.
        """
        if not NAME.fullmatch(name):
            raise InvalidOperatorKeys(f"{name!r:.80} is no name: use a-z, 0-9 and '-', at most 63")
        if any(key.name == name for key in self.read()):
            raise InvalidOperatorKeys(f"there is a key named {name}; remove it first, or choose another name")
        made = new_key()
        self._write([*self._lines(), f"sha256:{digest_of(made).hex()} {role.value} {name}"])
        return made

    def remove(self, which: str) -> OperatorKey:
        """Takes a key out, by its name or id.

        Raises:
            NoSuchOperator: none is called so.
            InvalidOperatorKeys: it is the first plain key, which commands on this machine use: rotate it instead.
        """
        keys = self.read()
        found = next((key for key in keys if which and which in (key.name, key.id)), None)
        if found is None:
            raise NoSuchOperator(f"no key {which:.80} in {self.path}; `graft operator list` shows them")
        if found == next((key for key in keys if key.plain), None):
            raise InvalidOperatorKeys(
                "that is the key which this machine's commands use; `graft operator rotate` replaces it"
            )
        self._write([line for line in self._lines() if _of(line) != found])
        return found

    def rotate(self, keep_old: str = "") -> tuple[OperatorKey, OperatorKey]:
        """Replaces the first plain key, which this machine's commands and the trainer's probe use, by a new one.

        Args:
            keep_old: a name under which the old one stays good, by its hash, until it is removed; empty ends it now.

        Returns:
            The old one and the new one.

        Raises:
            InvalidOperatorKeys: the file has no plain key, or the name is none or is taken.
        """
        keys, lines = self.read(), self._lines()
        old = next((key for key in keys if key.plain), None)
        if old is None:
            raise InvalidOperatorKeys(f"{self.path} holds hashes only; add the new key and remove the old one instead")
        if keep_old and (not NAME.fullmatch(keep_old) or any(key.name == keep_old for key in keys)):
            raise InvalidOperatorKeys(f"{keep_old!r:.80} is no name, or is taken")
        text = new_key()
        new = OperatorKey(digest_of(text), old.role, old.name, plain=True)
        at = next(index for index, line in enumerate(lines) if _of(line) == old)
        lines[at] = " ".join(word for word in (text, old.role.value if old.name else "", old.name) if word)
        if keep_old:
            lines.insert(at + 1, f"sha256:{old.digest.hex()} {old.role.value} {keep_old}")
        self._write(lines)
        return old, new

    def _lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    def _write(self, lines: list[str]) -> None:
        """Replaces the file as a whole: a service must never read half of it."""
        partial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write("".join(f"{line}\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)


def _of(line: str) -> OperatorKey | None:
    found, _ = parse(line)
    return found[0] if found else None
