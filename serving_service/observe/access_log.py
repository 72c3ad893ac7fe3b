"""One log line for each generation: who, on what, how long, how it ended. Never prompt text, a key or an error's message.

Owns the line. Does not own where lines go (`graftwork.logs`), nor the gRPC kit's own line for each call.
"""

import logging

import structlog

from graftwork.late_lines import log_late
from serving_service.core.observing import CallEnded, Seen, Stage

log = structlog.get_logger("serving_service.access")
_VERSION_CHARACTERS = 12


class AccessLog:
    """Implements `core.observing.Observer`."""

    def see(self, event: Seen) -> None:
        if isinstance(event, CallEnded):
            log_late(log, logging.INFO, "generation", lambda: _fields(event))


def _fields(call: CallEnded) -> dict[str, object]:
    fields: dict[str, object] = {
        "generation_id": call.call,
        "tenant": call.tenant or "-",
        "adapter": call.adapter or "-",
        "version": call.version[:_VERSION_CHARACTERS] or "-",
        "route": call.route or "-",
        "tier": call.tier.value if call.tier else "-",
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": call.completion_tokens,
        "total_ms": _ms(call.total_seconds),
        "outcome": call.outcome,
    }
    for stage in Stage:
        if stage in call.seconds:
            fields[f"{stage.value}_ms"] = _ms(call.seconds[stage])
    if call.first_token_seconds is not None:
        fields["first_token_ms"] = _ms(call.first_token_seconds)
    if call.finish_reason:
        fields["finish_reason"] = call.finish_reason
    if call.error:
        fields["error"] = call.error
    return fields


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 1)
