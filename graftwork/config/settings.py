"""The base of each service's settings: flags before `GRAFT_*` variables before the file before defaults, unknown names refused.

Owns where a value comes from, and says so. Does not own any setting (`trainer_service/settings.py` and its like).
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from graftwork.config.errors import ConfigError
from graftwork.config.fields import default_of, is_path, is_secret, is_text, own_variables, type_of, unit_of
from graftwork.config.file import CONFIG_VARIABLE, ConfigFile, Value
from graftwork.config.names import meant, nearest
from graftwork.config.shared import CLIENT_VARIABLES, SECTION_MODELS, SHARED

# In a cluster Kubernetes sets these for a Service called graft-serving: nobody mistyped anything.
_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$")
_OTHERS = re.compile(r"GRAFT_(TRAINER|SERVING|REGISTRY|CONSOLE)_")
_ALMOST = 0.85  # of a name without a service's prefix: GRAFT_* may be anybody's, GRAFT_BACKBON is a slip


@dataclass(frozen=True, slots=True)
class Found:
    """A value that somebody set.

    Attributes:
        value: as it was written.
        source: where, for people: a flag, a variable, or a place in the file.
    """

    value: object
    source: str


class ServiceSettings(BaseSettings):
    """All settings of one service.

    A subclass gives `section`, its part of the file, and `env_prefix`. Each field has a docstring below it, and a number has a
    unit, by its name's end or by `Unit`.
    """

    model_config = SettingsConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)

    section: ClassVar[str]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then what `set_values` finds."""
        return init_settings, _EnvironmentAndFile(settings_cls)

    @classmethod
    def prefix(cls) -> str:
        """Returns how the service's own variables begin."""
        return str(cls.model_config["env_prefix"])

    @classmethod
    def from_command(cls, arguments: Sequence[str], program: str) -> Self:
        """Reads flags, environment and file, and checks all of them.

        Args:
            arguments: of the command line; `--config FILE` names the file.
            program: for `--help`, which ends the process.

        Raises:
            ConfigError: something is wrong, unknown or missing; names each place.
        """
        flags = _flags(cls, arguments, program)
        if config := flags.pop("config", None):
            os.environ[CONFIG_VARIABLE] = str(config)
        return cls.checked(flags, {name: flag_of(name) for name in flags})

    @classmethod
    def checked(cls, given: Mapping[str, Any], said_by: Mapping[str, str]) -> Self:
        """Takes values that go before the environment and the file, and checks all of them.

        Args:
            given: by field.
            said_by: where each of them comes from, for people.

        Raises:
            ConfigError: something is wrong, unknown or missing; names each place.
        """
        file = ConfigFile.chosen()
        if unknown := unknown_names(cls, file):
            raise ConfigError(unknown)
        sources = {name: found.source for name, found in set_values(cls, file).items()} | dict(said_by)
        try:
            return cls(**given)
        except ValidationError as error:
            raise ConfigError(problems_of(cls, error, sources)) from None


class _EnvironmentAndFile(PydanticBaseSettingsSource):
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # pydantic asks for it, and never calls it where __call__ is ours

    def __call__(self) -> dict[str, Any]:
        cls = self.settings_cls
        assert issubclass(cls, ServiceSettings)
        return {key_of(cls, name): found.value for name, found in set_values(cls, ConfigFile.chosen()).items()}


def key_of(cls: type[ServiceSettings], name: str) -> str:
    """Returns the key that pydantic knows a field by."""
    field = cls.model_fields[name]
    return own_variables(name, field, "")[0] if field.validation_alias else name


def variables_of(cls: type[ServiceSettings], name: str) -> tuple[str, ...]:
    """Returns the variables that set a field, the one that goes first at the front."""
    own = own_variables(name, cls.model_fields[name], cls.prefix())
    shared = SHARED.get(name)
    return own if shared is None or shared.variable in own else (*own, shared.variable)


def places_of(cls: type[ServiceSettings], name: str) -> tuple[tuple[str, str], ...]:
    """Returns section and key of a field in the file, the one that goes first at the front."""
    shared = SHARED.get(name)
    own = ((cls.section, name),)
    if shared is None:
        return own
    return (*(own if shared.own_key else ()), (shared.section, shared.key))


def flag_of(name: str) -> str:
    """Returns a field's flag."""
    return "--" + name.replace("_", "-")


def set_values(
    cls: type[ServiceSettings], file: ConfigFile, environment: Mapping[str, str] | None = None
) -> dict[str, Found]:
    """Returns what the environment and the file set, by field; the environment goes first."""
    environment = os.environ if environment is None else environment
    found = {}
    for name, field in cls.model_fields.items():
        for variable in variables_of(cls, name):
            if variable in environment and (environment[variable] or is_text(field)):  # an empty number is none
                found[name] = Found(_from_environment(field, environment[variable]), variable)
                break
        else:
            for section, key in places_of(cls, name):
                if file.has(section, key):
                    value = file.sections[section][key]
                    found[name] = Found(_from_file(field, value, file), file.place(section, key))
                    break
    return found


def _from_environment(field: FieldInfo, value: str) -> object:
    return Path(value).expanduser() if is_path(field) else value


def _from_file(field: FieldInfo, value: Value, file: ConfigFile) -> object:
    return file.path_of(value) if is_path(field) and isinstance(value, str) else value


def unknown_names(
    cls: type[ServiceSettings], file: ConfigFile, environment: Mapping[str, str] | None = None
) -> list[str]:
    """Returns a sentence for each name that nobody knows: in the service's sections of the file, and among its variables."""
    environment = os.environ if environment is None else environment
    problems = []
    own = [key for name in cls.model_fields for section, key in places_of(cls, name) if section == cls.section]
    known = {cls.section: own} | {section: list(model.model_fields) for section, model in SECTION_MODELS.items()}
    for section, keys in known.items():
        problems += [
            f"{file.place(section, key)}: there is no such setting{_elsewhere(key) or meant(key, keys)}"
            for key in file.sections.get(section, {})
            if key not in keys
        ]
    variables = {variable for name in cls.model_fields for variable in variables_of(cls, name)}
    shared = {str(field.validation_alias) for model in SECTION_MODELS.values() for field in model.model_fields.values()}
    for name in environment:
        if name in variables or name in shared or name in CLIENT_VARIABLES or _SERVICE_LINK.search(name):
            continue
        if name.startswith(cls.prefix()):
            problems.append(f"{name}: there is no such setting{meant(name, variables)}")
        elif (
            not _OTHERS.match(name)
            and name.startswith("GRAFT_")
            and (slip := nearest(name, shared | set(CLIENT_VARIABLES), _ALMOST))
        ):
            problems.append(f"{name}: there is no such setting; did you mean {slip}?")
    return problems


def _elsewhere(key: str) -> str:
    shared = SHARED.get(key)
    return f"; it stands in [{shared.section}] as {shared.key}" if shared else ""


def problems_of(cls: type[ServiceSettings], error: ValidationError, sources: Mapping[str, str]) -> list[str]:
    """Returns a sentence for each thing that pydantic found, with the place and without the value, which may be secret."""
    by_key = {key_of(cls, name): name for name in cls.model_fields}
    problems = []
    for problem in error.errors(include_input=False, include_url=False):
        key = str(problem["loc"][-1]) if problem["loc"] else ""
        name = by_key.get(key, key)
        message = problem["msg"].removeprefix("Value error, ")
        if name in cls.model_fields and problem["type"] != "value_error":
            message = f"must be {type_of(cls.model_fields[name])}"
        if name not in cls.model_fields:
            problems.append(f"{cls.section}: {message}")
        elif problem["type"] == "missing":
            section, own = places_of(cls, name)[0]
            problems.append(f"{variables_of(cls, name)[0]} is not set: it is required ([{section}] {own} in the file)")
        else:
            problems.append(f"{sources.get(name, variables_of(cls, name)[0])}: {message}")
    return problems


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError([message])


def _flags(cls: type[ServiceSettings], arguments: Sequence[str], program: str) -> dict[str, Any]:
    parser = _Parser(
        prog=program,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        description=f"{(cls.__doc__ or '').strip()} "
        "Flags go before GRAFT_* variables, these before the file, it before defaults.",
    )
    parser.add_argument("--config", metavar="FILE", help=f"settings file; else what {CONFIG_VARIABLE} names")
    for name, field in cls.model_fields.items():
        if is_secret(field):
            continue
        words = " ".join(filter(None, (type_of(field), unit_of(name, field) and f"({unit_of(name, field)})")))
        text = f"{' '.join((field.description or '').split())} [{words}; default: {default_of(field)}]"
        parser.add_argument(flag_of(name), dest=name, metavar="VALUE", help=text.replace("%", "%%"))
    known, rest = parser.parse_known_args(arguments)
    if rest:
        flags = ["--config", *map(flag_of, cls.model_fields)]
        raise ConfigError([f"{rest[0]}: there is no such flag{meant(rest[0].partition('=')[0], flags)}"])
    given = vars(known)
    return {
        name: Path(value).expanduser() if name in cls.model_fields and is_path(cls.model_fields[name]) else value
        for name, value in given.items()
    }
