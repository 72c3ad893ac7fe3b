"""Pages from templates: the environment, what every page knows, and how values look.

Owns filters and `render`. Does not own what pages show.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from graftwork import __version__
from graftwork.console.visitor import Visitor, is_by_script
from graftwork.v1 import trainer_pb2

HERE = Path(__file__).parent
STATIC = HERE / "static"


def render(
    request: Request, visitor: Visitor | None, template: str, *, status: int = 200, **values: Any
) -> HTMLResponse:
    """Returns a page.

    Args:
        request: what it answers.
        visitor: None on pages for everybody.
        template: file under templates/, extends base.html.
        status: of the answer.
        values: for the template; a name that is used and not given is an error.
    """
    # A page that refreshes itself, in another tab perhaps, must not take away what a person is to read.
    flashes = visitor.session.take_flashes() if visitor and not is_by_script(request) else []
    known: dict[str, Any] = {
        "visitor": visitor,
        "form_token": visitor.form_token if visitor else "",
        "navigation": request.app.state.navigation(visitor),
        "here": request.app.state.section(request.url.path),
        "flashes": flashes,
        "release": __version__,
    }
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(known | values), status_code=status)


def last_id(name: str) -> str:
    """The last segment of a resource name."""
    return name.rsplit("/", 1)[-1]


def tenant_of(name: str) -> str:
    """The tenant's id in a resource name."""
    return name.split("/")[1]


def short(digest: str) -> str:
    """A digest's first characters, which people tell versions apart by."""
    return digest[:12]


def when(time: Timestamp | None) -> Markup | str:
    """A time in UTC, to the second; a dash for none."""
    if time is None or not (time.seconds or time.nanos):
        return "\N{EN DASH}"
    moment = time.ToDatetime(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"), moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    )


def ago(time: Timestamp | None) -> Markup | str:
    """How long ago, in one unit; the time itself is the title."""
    if time is None or not (time.seconds or time.nanos):
        return "\N{EN DASH}"
    moment = time.ToDatetime(UTC)
    return Markup('<time datetime="{0}" title="{1}">{2}</time>').format(
        moment.isoformat(timespec="seconds"),
        moment.strftime("%Y-%m-%d %H:%M:%S UTC"),
        f"{duration((datetime.now(UTC) - moment).total_seconds())} ago",
    )


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3 h`, `5 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def size(count: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def number(value: float) -> str:
    """With thin spaces between thousands; six significant digits for fractions."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.6g}"


def plain(value: Any) -> str:
    """A value of a protobuf Struct, as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, Mapping):
        value = [f"{key} {plain(item)}" for key, item in value.items()]
    if isinstance(value, str):
        return value
    return ", ".join(plain(item) for item in value or ()) or "\N{EN DASH}"


def job_state(state: trainer_pb2.JobState) -> str:
    """`RUNNING` for JOB_STATE_RUNNING."""
    return trainer_pb2.JobState.Name(state).removeprefix("JOB_STATE_")


def loss(value: float) -> str:
    """A loss to four decimals; 0 means that nothing was evaluated yet."""
    return f"{value:.4f}" if value else "\N{EN DASH}"


def told(text: str) -> Markup:
    """A service's message as a sentence of a page: with a capital, and what stands between backticks as code."""
    parts = (text[:1].upper() + text[1:]).split("`")
    if len(parts) % 2 == 0:  # one that stands alone is a backtick
        return Markup("{}").format("`".join(parts))
    marked = (Markup("<code>{}</code>") if at % 2 else Markup("{}") for at in range(len(parts)))
    return Markup("").join(mark.format(part) for mark, part in zip(marked, parts, strict=True))


def fields(message: Message) -> list[tuple[str, Any]]:
    """A message's fields that are set, by name."""
    return [(field.name, value) for field, value in message.ListFields()]


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "ago": ago,
    "duration": duration,
    "fields": fields,
    "job_state": job_state,
    "last_id": last_id,
    "loss": loss,
    "number": number,
    "plain": plain,
    "short": short,
    "size": size,
    "tenant_of": tenant_of,
    "told": told,
    "when": when,
}
