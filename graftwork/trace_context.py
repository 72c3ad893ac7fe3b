"""The W3C trace context of the current call, as plain headers; so that layers without tracing can hand it on.

Owns the variable only. Does not own spans (each service's tracing) nor what a header means.
"""

import re
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_MAX_TRACESTATE = 512  # characters, as W3C lets it be cut
_NONE: Mapping[str, str] = MappingProxyType({})
_current: ContextVar[Mapping[str, str]] = ContextVar("graftwork_trace", default=_NONE)


def trace_headers() -> Mapping[str, str]:
    """Returns `traceparent` and perhaps `tracestate` of what runs now; nothing when no caller sent any."""
    return _current.get()


def set_trace_headers(headers: Mapping[str, str]) -> None:
    """Sets them for the current task, from a call's metadata or headers; malformed ones are dropped."""
    parent, state = headers.get("traceparent", ""), headers.get("tracestate", "")
    if not _TRACEPARENT.fullmatch(parent):
        _current.set(_NONE)
    elif state and len(state) <= _MAX_TRACESTATE:
        _current.set({"traceparent": parent, "tracestate": state})
    else:
        _current.set({"traceparent": parent})
