"""docs/configuration.md and an example file, made from the settings classes, so that nothing is said twice.

`graft config reference > docs/configuration.md` after a setting has changed; a test holds it up to date.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from graftwork.config.fields import measured
from graftwork.config.file import SECTIONS
from graftwork.config.shared import CLIENT_VARIABLES

_WIDTH = 120
_TITLES = {
    "shared": "What services have in common.",
    "store": "Where adapters live.",
    "trainer": "`python -m trainer_service`, and the trainer of `graft up`.",
    "serving": "`python -m serving_service`, and the serving service of `graft up`.",
    "registry": "`python -m adapter_store`: the registry alone, for machines that neither train nor serve. `graft up` starts none.",
    "console": "`python -m graftwork.console`, `graft console`, and the console of `graft up`.",
}
_HEAD = """\
# Configuration

Made by `graft config reference` from the settings themselves; do not edit it by hand.

A setting is looked for in four places, and the first one that has it wins:

1. a flag: `python -m serving_service --max-loras 8`, `graft up --set serving.max_loras=8` (and `--backbone`, `--store`, `--trainer-port`, ...)
2. an environment variable: `GRAFT_SERVING_MAX_LORAS=8`; an empty one counts as unset, except where the setting is text
3. the settings file: `max_loras = 8` below `[serving]`
4. its default

The file is the one that `--config` names (before or after a command's name; `python -m` takes it too), else `GRAFT_CONFIG`, else `graft.toml` in the home folder. It is TOML; relative paths in it are relative to its folder. Services read it when they start; what is read again while they run says so.

```toml
[store]
url = "s3://adapters/prod?endpoint=https://s3.example.com"

[shared]
backbone = "/models/qwen3-8b"
log_level = "WARNING"

[serving]
http_host = "0.0.0.0"
http_port = 8080
max_loras = 8
```

A name that nobody knows is refused at start, with the nearest one that exists, in the file, among `GRAFT_*` variables and among flags. Nothing starts with a wrong setting: the message names the place, and never the value, since it may be a secret.

| command | what |
|---|---|
| `graft config show` | every setting, its value, and where that comes from; `--changed`: only what somebody set. A secret shows as `(set, not shown)`, a password in an address as `***` |
| `graft config check` | whether `graft up` could start: names, values, files that must exist, ports given twice, services that do not fit each other; exit code 1 if not |
| `graft config example` | a `graft.toml` with everything at its default, commented out |
| `graft config reference` | this page |

Under `graft up` the address files and the operator's key file are the home's own, whatever is set.
"""
_CLIENT = """\
## Variables of `graft` and the SDK

No service has these, and no file.

| variable | what |
|---|---|
"""


def reference(settings: Sequence[Mapping[str, Any]]) -> str:
    """Returns docs/configuration.md.

    Args:
        settings: all of them as `graftwork.config.tell` tells them, when nobody sets any.
    """
    parts = [_HEAD]
    for section in SECTIONS:
        rows = [_row(one) for one in settings if one["section"] == section]
        parts.append(
            f"## [{section}]\n\n{_TITLES[section]}\n\n| key, variable | may be | default | what |\n|---|---|---|---|\n"
            + "".join(rows)
        )
    parts.append(_CLIENT + "".join(f"| `{name}` | {_cell(text)} |\n" for name, text in CLIENT_VARIABLES.items()))
    return "\n".join(parts)


def _row(one: Mapping[str, Any]) -> str:
    own = one["variables"][:1] if len(one["variables"]) == 1 else one["variables"]
    names = f"`{one['key']}`<br>" + "<br>".join(f"`{name}`" for name in own)
    default = (
        one["default"] if one["default"] in ("required", "unset") or " " in one["default"] else f"`{one['default']}`"
    )
    in_words = measured(str(one["default"]), one["unit"])
    default += f" ({in_words})" if in_words.endswith("iB") and one["unit"] == "bytes" else ""
    unit = f" ({one['unit']})" if one["unit"] not in ("", "port", "rank") else ""
    secret = "" if one["flag"] or one["section"] == "shared" else " A secret: it has no flag."
    return f"| {names} | {_cell(one['type'])}{_cell(unit)} | {default} | {_cell(one['description'])}{secret} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def example(settings: Sequence[Mapping[str, Any]]) -> str:
    """Returns a file with every setting at its default, commented out.

    Args:
        settings: as in `reference`.
    """
    lines = [
        "# Settings of Graftwork. Take away the # before what you change; `graft config check` says whether it is right."
    ]
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        for one in settings:
            if one["section"] != section:
                continue
            unit = f" [{one['unit']}]" if one["unit"] else ""
            lines += textwrap.wrap(f"{one['description']}{unit}", _WIDTH, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"# {one['key']} = {_toml(one)}")
    return "\n".join(lines) + "\n"


def _toml(one: Mapping[str, Any]) -> str:
    default = str(one["default"])
    if default in ("required", "unset") or " " in default:
        return '""' if default in ("required", "unset") else f"0  # {default}"
    number = one["type"].startswith(("whole number", "number", "true or false"))
    return default if number else f'"{default}"'
