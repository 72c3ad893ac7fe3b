"""What forms carry beyond plain fields, and going on after one was handled.

Owns reading numbers, the confirmation page and the redirect. Does not own tokens (`guard.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse

from graftwork.console.errors import WrongForm
from graftwork.console.rendering import render
from graftwork.console.visitor import Visitor


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a visitor is asked before something changes.

    Attributes:
        title: the question.
        facts: (name, value) of what is going to happen.
        button: what the button says.
        back: path of the page without the change.
        hidden: fields that are sent along; the form goes to the address it was shown at.
        danger: the change takes something away.
        asks_reason: a text that history keeps.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    button: str
    back: str
    hidden: Mapping[str, str] = field(default_factory=dict)
    danger: bool = False
    asks_reason: bool = False


def confirm(request: Request, visitor: Visitor, asked: Confirmation) -> HTMLResponse:
    """Returns the page that asks; its form is sent to the same address by POST."""
    return render(request, visitor, "confirm.html", asked=asked)


def go_to(path: str) -> RedirectResponse:
    """Goes on with a GET, so that loading a page again repeats nothing."""
    return RedirectResponse(quote(path, safe="/?=&:@%+-"), HTTPStatus.SEE_OTHER)


def whole_number(name: str, text: str, *, least: int = 0, most: int = 2**53) -> int:
    """Reads a field. Raises WrongForm for what is no number, or none that is allowed."""
    plain = text.strip()
    if not (plain.isascii() and plain.isdigit() and len(plain) < 18 and least <= int(plain) <= most):
        raise WrongForm(f"{name}: {plain[:20]!r} is no whole number from {least} to {most}")
    return int(plain)


def decimal_number(name: str, text: str, *, most: float, zero: bool = False) -> float:
    """Reads a field, with a point or a comma. Raises WrongForm for what is no number from 0 (itself only with `zero`) to `most`."""
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        value = -1.0
    if not (0 < value <= most or (zero and value == 0)):
        raise WrongForm(f"{name}: {text.strip()[:20]!r} is no number {'from' if zero else 'above'} 0 to {most:g}")
    return value
