"""`python -m graftwork.config.tell`: every setting of every service, as one JSON value, for `graft config`.

A process of its own, because `graftwork` imports no service: here, and only here, their settings classes are imported, by
name, and they are light. Reads the environment and GRAFT_CONFIG as the services would.
"""

import importlib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from graftwork.config.across import problems_across
from graftwork.config.errors import ConfigError
from graftwork.config.fields import default_of, is_secret, own_variables, shown, type_of, unit_of
from graftwork.config.file import ConfigFile
from graftwork.config.settings import (
    Found,
    ServiceSettings,
    places_of,
    problems_of,
    set_values,
    unknown_names,
    variables_of,
)
from graftwork.config.shared import SECTION_MODELS, SHARED

CLASSES = {
    "trainer": "trainer_service.settings:TrainerSettings",
    "serving": "serving_service.settings:ServingSettings",
    "registry": "adapter_store.settings:RegistrySettings",
    "console": "graftwork.console.settings:ConsoleSettings",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, for people.

    Attributes:
        section, key: in the file.
        variables: of the environment, the one that goes first at the front.
        flag: of the service's own command; empty where it has none.
        type, unit, default: in words; the unit is empty for what is no number.
        description: one paragraph.
        value: as it is now; nothing of a secret.
        source: where it comes from; `default` when nobody set it.
    """

    section: str
    key: str
    variables: tuple[str, ...]
    flag: str
    type: str
    unit: str
    default: str
    description: str
    value: str
    source: str


def settings_of(cls: type[ServiceSettings], file: ConfigFile, marks: Mapping[str, str]) -> list[Setting]:
    """Returns a service's settings; what is only ever shared is not among them.

    Args:
        marks: variables that `graft up` set, with words for it.
    """
    found = set_values(cls, file)
    made = []
    for name, field in cls.model_fields.items():
        section, key = places_of(cls, name)[0]
        if section != cls.section:
            continue
        flag = "" if is_secret(field) else "--" + name.replace("_", "-")
        made.append(_setting(section, key, field, variables_of(cls, name), flag, found.get(name), marks))
    return made


def _setting(
    section: str,
    key: str,
    field: FieldInfo,
    variables: tuple[str, ...],
    flag: str,
    found: Found | None,
    marks: Mapping[str, str],
) -> Setting:
    default = default_of(field)
    return Setting(
        section=section,
        key=key,
        variables=variables,
        flag=flag,
        type=type_of(field),
        unit=unit_of(key, field),
        default=default,
        description=" ".join((field.description or "").split()),
        value=shown(found.value, is_secret(field)) if found else default,
        source=marks.get(found.source, found.source) if found else "default",
    )


def shared_settings(file: ConfigFile, marks: Mapping[str, str]) -> list[Setting]:
    """Returns the settings of [store] and [shared]."""
    made = []
    for section, model in SECTION_MODELS.items():
        for key, field in model.model_fields.items():
            variables = own_variables(key, field, "")
            found = None
            if variables[0] in os.environ:
                found = Found(os.environ[variables[0]], variables[0])
            elif file.has(section, key):
                found = Found(file.sections[section][key], file.place(section, key))
            takers = {shared.key for shared in SHARED.values() if not shared.own_key}
            flag = f"--{'store-url' if section == 'store' else key.replace('_', '-')}" if key in takers else ""
            made.append(_setting(section, key, field, variables, flag, found, marks))
    return made


def classes() -> dict[str, type[ServiceSettings]]:
    """Imports the services' settings classes, by section."""
    made: dict[str, type[ServiceSettings]] = {}
    for section, place in CLASSES.items():
        module, _, name = place.partition(":")
        made[section] = getattr(importlib.import_module(module), name)
    return made


def told(marks: Mapping[str, str]) -> dict[str, object]:
    """Returns all settings, what is wrong with them, and what is doubtful."""
    try:
        file = ConfigFile.chosen()
    except ConfigError as error:
        return {"settings": [], "problems": list(error.problems), "doubts": []}
    kinds = classes()
    made: dict[str, BaseModel] = {}
    problems: list[str] = []
    for section, cls in kinds.items():
        problems += [problem for problem in unknown_names(cls, file) if problem not in problems]
        sources = {name: found.source for name, found in set_values(cls, file).items()}
        try:
            made[section] = cls()
        except ValidationError as error:
            wrong = problems_of(cls, error, {name: marks.get(source, source) for name, source in sources.items()})
            # The registry by itself is for machines that run nothing else: here its folder may well be missing.
            problems += [
                problem
                for problem in wrong
                if problem not in problems
                and not (section == "registry" and problem.startswith("GRAFT_REGISTRY_STATE_DIR"))
            ]
    wrong_across, doubts = problems_across(made, file)
    settings = shared_settings(file, marks) + [one for cls in kinds.values() for one in settings_of(cls, file, marks)]
    problems = [_by_source(problem, marks) for problem in problems]
    return {
        "file": str(file.path) if file.path else None,
        "settings": [asdict(one) for one in settings],
        "problems": problems + wrong_across,
        "doubts": doubts,
    }


def _by_source(problem: str, marks: Mapping[str, str]) -> str:
    """Names the place that somebody wrote to, where `graft` made a variable of it."""
    name, colon, rest = problem.partition(":")
    if marks.get(name, "").startswith("--set "):
        rest = re.sub(
            r"GRAFT_(TRAINER|SERVING|REGISTRY|CONSOLE)_(\w+)", lambda found: f"{found[1]}.{found[2]}".lower(), rest
        )
    return f"{marks.get(name, name)}{colon}{rest}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(told(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {})))
