"""Names of settings that nobody knows, and the one that was probably meant."""

import difflib
from collections.abc import Iterable

_CLOSE = 0.6


def nearest(name: str, known: Iterable[str], close: float = _CLOSE) -> str | None:
    """Returns the known name that looks most like `name`, None when none looks like it at all."""
    found = difflib.get_close_matches(name, list(known), 1, close)
    return found[0] if found else None


def meant(name: str, known: Iterable[str]) -> str:
    """Returns the end of a sentence that refuses `name`: the nearest known one, or nothing."""
    found = nearest(name, known)
    return f"; did you mean {found}?" if found else ""
