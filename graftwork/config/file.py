"""The settings file, `graft.toml`: where it is, and what stands in it, section by section.

Owns the file's form. Does not own which settings there are (`settings`, `shared`).
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from graftwork.config.errors import ConfigError
from graftwork.config.names import meant

CONFIG_VARIABLE = "GRAFT_CONFIG"
FILE_NAME = "graft.toml"
"""Looked for in the home folder when neither --config nor GRAFT_CONFIG names a file."""
SECTIONS = ("shared", "store", "trainer", "serving", "registry", "console")
_MAX_BYTES = 1 << 20

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A settings file that was read.

    Attributes:
        path: of the file; None when there is none.
        sections: values by section and key.
    """

    path: Path | None = None
    sections: Mapping[str, Mapping[str, Value]] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def read(cls, path: Path) -> "ConfigFile":
        """Reads and checks a file's form: known sections, one value a key.

        Raises:
            ConfigError: it is missing, unreadable, no TOML, or has a section that nobody reads.
        """
        path = path.expanduser().absolute()
        try:
            with path.open("rb") as file:
                text = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            raise ConfigError([f"there is no file {path}; name another with --config or {CONFIG_VARIABLE}"]) from None
        except OSError as error:
            raise ConfigError([f"{path} cannot be read: {error.strerror}"]) from None
        if len(text) > _MAX_BYTES:
            raise ConfigError([f"{path} has more than {_MAX_BYTES} bytes; is it a settings file?"])
        try:
            found = tomllib.loads(text.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError([f"{path} is no TOML: {error}"]) from None
        if problems := [problem for name, value in found.items() for problem in _problems(path, name, value)]:
            raise ConfigError(problems)
        return cls(path, MappingProxyType({name: MappingProxyType(value) for name, value in found.items()}))

    @classmethod
    def chosen(cls) -> "ConfigFile":
        """Returns the file that GRAFT_CONFIG names, else an empty one.

        Raises:
            ConfigError: as `read`.
        """
        path = os.environ.get(CONFIG_VARIABLE)
        return cls.read(Path(path)) if path else cls()

    def has(self, section: str, key: str) -> bool:
        """Tells whether the file sets it."""
        return key in self.sections.get(section, {})

    def place(self, section: str, key: str) -> str:
        """Returns where a value stands, for people."""
        return f"{self.path.name if self.path else FILE_NAME} [{section}] {key}"

    def path_of(self, value: str) -> Path:
        """Returns a path that the file names; relative ones are relative to the file's folder."""
        path = Path(value).expanduser()
        return path if path.is_absolute() or self.path is None else self.path.parent / path


def _problems(path: Path, name: str, value: object) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path.name}: {name} stands outside of a section ({', '.join(f'[{known}]' for known in SECTIONS)})"]
    if name not in SECTIONS:
        return [f"{path.name}: there is no section [{name}]{meant(name, SECTIONS)}"]
    return [
        f"{path.name} [{name}] {key}: must be text, a number, true or false"
        for key, item in value.items()
        if not isinstance(item, str | int | float | bool)
    ]
