"""What may be asked of an answer's form: JSON schemas, regular expressions and choices within limits.

Owns the limits on size and depth, so that nothing large is ever walked or compiled. What a constraint costs to compile
despite them is the engine's to bound; what one means is its backend's.
"""

import json
from collections.abc import Iterator
from typing import Any

from serving_service.core.errors import InvalidRequest
from serving_service.engine.protocol import Constraint, ConstraintKind

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_NODES = 10_000
MAX_REGEX_CHARS = 2048
MAX_CHOICES = 256
MAX_CHOICE_CHARS = 1024


def json_schema(schema: object, field: str) -> Constraint:
    """Checks a JSON schema.

    Args:
        schema: as text, or already read.
        field: what the caller calls it.

    Raises:
        InvalidRequest: no JSON object, or larger, deeper or wider than the limits.
    """
    if isinstance(schema, str):
        if len(schema.encode(errors="surrogatepass")) > MAX_SCHEMA_BYTES:
            raise InvalidRequest(f"{field} is longer than {MAX_SCHEMA_BYTES} bytes", field)
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise InvalidRequest(f"{field} is not JSON", field) from None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{field} must be a JSON object", field)
    check_size(schema, field)
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"{field} is longer than {MAX_SCHEMA_BYTES} bytes", field)
    return Constraint(ConstraintKind.JSON_SCHEMA, text)


def check_size(value: object, field: str, nodes: int = MAX_SCHEMA_NODES, depth: int = MAX_SCHEMA_DEPTH) -> None:
    """Raises InvalidRequest when JSON is deeper than `depth` or has more than `nodes` values. Never recurses."""
    count, level = 0, [value]
    for _ in range(depth + 1):
        inner: list[Any] = []
        for item in level:
            count += 1
            if count > nodes:
                raise InvalidRequest(f"{field} has more than {nodes} values", field)
            inner.extend(_children(item))
        if not inner:
            return
        level = inner
    raise InvalidRequest(f"{field} is nested deeper than {depth} levels", field)


def _children(item: object) -> Iterator[object]:
    if isinstance(item, dict):
        yield from item.values()
    elif isinstance(item, list):
        yield from item


def regex(pattern: object, field: str) -> Constraint:
    """Checks a regular expression; raises InvalidRequest."""
    if not isinstance(pattern, str) or not 1 <= len(pattern) <= MAX_REGEX_CHARS or "\0" in pattern:
        raise InvalidRequest(f"{field} must be a text of 1 to {MAX_REGEX_CHARS} characters without NUL", field)
    return Constraint(ConstraintKind.REGEX, pattern)


def choices(texts: object, field: str) -> Constraint:
    """Checks a list of texts to choose from; raises InvalidRequest."""
    if not isinstance(texts, list | tuple) or not 1 <= len(texts) <= MAX_CHOICES:
        raise InvalidRequest(f"{field} must be a list of 1 to {MAX_CHOICES} texts", field)
    if not all(isinstance(text, str) and 1 <= len(text) <= MAX_CHOICE_CHARS for text in texts):
        raise InvalidRequest(f"{field}: each must be a text of 1 to {MAX_CHOICE_CHARS} characters", field)
    return Constraint(ConstraintKind.CHOICES, choices=tuple(texts))


def json_object() -> Constraint:
    """Any JSON object."""
    return Constraint(ConstraintKind.JSON_OBJECT)
