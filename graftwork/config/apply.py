"""What `graft` itself reads of the settings: the file's values, and those of --set, as variables of its own process.

So every option with a variable, and every child, sees one truth: flags, then the environment, then the file.
"""

import os
from collections.abc import Mapping, MutableMapping, Sequence
from types import MappingProxyType

from graftwork.config.errors import ConfigError
from graftwork.config.file import SECTIONS, ConfigFile
from graftwork.config.names import meant

# What commands of `graft` have as an option with a variable, or read by themselves; services read the file on their own.
_READ: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "GRAFT_STORE_URL": (("store", "url"),),
        "GRAFT_BACKBONE": (("shared", "backbone"),),
        "GRAFT_TLS_CA": (("shared", "tls_ca"),),
        "GRAFT_TLS_CERTIFICATE": (("shared", "tls_certificate"),),
        "GRAFT_TLS_KEY": (("shared", "tls_key"),),
        "GRAFT_TRAINER_PORT": (("trainer", "port"),),
        "GRAFT_SERVING_PORT": (("serving", "port"),),
        "GRAFT_SERVING_HTTP_PORT": (("serving", "http_port"),),
        "GRAFT_CONSOLE_HOST": (("console", "host"),),
        "GRAFT_CONSOLE_PORT": (("console", "port"),),
        "GRAFT_SERVING_TLS_CERTIFICATE": (("serving", "tls_certificate"),),
        "GRAFT_CONSOLE_TLS_CERTIFICATE": (("console", "tls_certificate"),),
    }
)
_WHOLE = ("GRAFT_TRAINER_PORT", "GRAFT_SERVING_PORT", "GRAFT_SERVING_HTTP_PORT", "GRAFT_CONSOLE_PORT")


def apply_file(file: ConfigFile, environment: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Sets what the environment leaves open, and returns where each variable comes from, for people.

    Raises:
        ConfigError: a port that is no whole number.
    """
    came = {}
    for variable, places in _READ.items():
        for section, key in places:
            if variable not in environment and file.has(section, key):
                value = file.sections[section][key]
                if variable in _WHOLE and type(value) is not int:
                    raise ConfigError([f"{file.place(section, key)}: must be a whole number"])
                environment[variable] = _in_environment(variable, value, file)
                came[variable] = file.place(section, key)
    return came


def _in_environment(variable: str, value: object, file: ConfigFile) -> str:
    if variable.endswith(("_CA", "_CERTIFICATE", "_TLS_KEY")):
        return str(file.path_of(str(value)))
    if variable == "GRAFT_BACKBONE" and file.path_of(str(value)).is_dir():
        return str(file.path_of(str(value)))
    return str(value)


def apply_words(words: Sequence[str], environment: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Takes `section.key=value` of --set, and returns where each variable comes from, for people.

    Raises:
        ConfigError: no such form or section; whether the key is known shows when the settings are checked.
    """
    came = {}
    for word in words:
        name, equals, value = word.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and key):
            raise ConfigError([f"--set {name}: write section.key=value, as in --set serving.max_loras=8"])
        if section not in SECTIONS:
            raise ConfigError([f"--set {name}: there is no section {section}{meant(section, SECTIONS)}"])
        variable = _variable(section, key)
        environment[variable] = value
        came[variable] = f"--set {section}.{key}"
    return came


def _variable(section: str, key: str) -> str:
    words = {"shared": key, "store": f"store_{key}"}.get(section, f"{section}_{key}")
    return f"GRAFT_{words}".upper()
