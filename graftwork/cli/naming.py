"""What people type for a version, as resource names: `adapter`, `adapter:alias`, `adapter@digest`, and a digest's first
characters anywhere."""

import re

from graftwork.cli.session import last_id
from graftwork.client import Client
from graftwork.errors import ErrorCode, GraftError

_DIGITS = re.compile(r"[0-9a-f]{1,64}", re.ASCII)


class NoSuchVersion(GraftError):
    """Not exactly one version begins with the given characters."""

    code = ErrorCode.NOT_FOUND


def version_name(client: Client, tenant: str, model: str) -> str:
    """Returns the resource name of a version or an alias; `adapter` alone is its alias prod.

    Raises:
        NoSuchVersion: not exactly one version begins so.
    """
    if "@" in model:
        adapter, _, digest = model.partition("@")
        name = f"tenants/{tenant}/adapters/{adapter}"
        return f"{name}/versions/{find_digest(client, name, digest)}"
    adapter, _, alias = model.partition(":")
    return f"tenants/{tenant}/adapters/{adapter}/aliases/{alias or 'prod'}"


def digest_or_alias(client: Client, adapter: str, text: str) -> str:
    """Returns the resource name of what is an alias of the adapter or else the beginning of a version's digest.

    Args:
        client: asked for the aliases.
        adapter: `tenants/{tenant}/adapters/{adapter}`.
        text: what was typed.

    Raises:
        NoSuchVersion: neither.
    """
    if any(last_id(alias.name) == text for alias in client.get_adapter(adapter).aliases):
        return f"{adapter}/aliases/{text}"
    return f"{adapter}/versions/{find_digest(client, adapter, text)}"


def find_digest(client: Client, adapter: str, start: str) -> str:
    """Returns the digest of the one version that begins with `start`.

    Raises:
        NoSuchVersion: none does, or several.
    """
    if len(start) == 64 and _DIGITS.fullmatch(start):
        return start
    found = [last_id(item.name) for item in client.list_versions(adapter)]
    matches = [digest for digest in found if start and digest.startswith(start)]
    if len(matches) != 1:
        known = last_id(adapter)
        raise NoSuchVersion(f"{len(matches)} versions of {known} start with {start}; see `graft adapter show {known}`")
    return matches[0]
