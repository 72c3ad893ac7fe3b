"""A request's body: read within a limit, then JSON within limits.

Owns bytes, depth, number of values, and what is no text. Does not own what fields mean (`fields`).
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from serving_service.api.http.errors import BodyTooLarge, ClientGone
from serving_service.core.errors import InvalidRequest

MAX_BODY_BYTES = 4 * 1024 * 1024
"""The same as a gRPC message's."""
MAX_DEPTH = 64
MAX_VALUES = 300_000
"""A prompt of tokens counts each."""
_DRAIN_BYTES = 64 * 1024 * 1024
_READ_SECONDS = 60.0


async def read_json(request: Request) -> dict[str, Any]:
    """Returns the body's JSON object.

    Raises:
        BodyTooLarge: it has more than MAX_BODY_BYTES; what comes after them is read and thrown away, up to a limit, since
            a client that is still sending would not see the answer.
        InvalidRequest: it is no JSON object, or one that is too deep or too wide, or did not come in time.
    """
    try:
        async with asyncio.timeout(_READ_SECONDS):
            data = await _read(request)
    except TimeoutError:
        raise InvalidRequest(f"the body did not arrive within {_READ_SECONDS:g} s") from None
    except ClientDisconnect:
        raise ClientGone("the client closed the connection") from None
    try:
        value = json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not UTF-8") from None
    except ValueError as error:
        # The decoder's own words hold a place and no text of the body.
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    check(value)
    return value


async def _read(request: Request) -> bytes:
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BODY_BYTES:
            parts.append(chunk)
        else:
            parts.clear()
        if size > _DRAIN_BYTES:
            break
    if size > MAX_BODY_BYTES:
        raise BodyTooLarge(f"the body is longer than {MAX_BODY_BYTES} bytes")
    return b"".join(parts)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def check(body: dict[str, Any]) -> None:
    """Raises InvalidRequest when JSON is too deep, has too many values, or holds half a character. Never recurses."""
    count, level = 0, [body]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            for child in _children(item):
                count += 1
                if isinstance(child, str):
                    _check_text(child)
                elif isinstance(child, dict | list):
                    inner.append(child)
            if count > MAX_VALUES:
                raise InvalidRequest(f"the body has more than {MAX_VALUES} values")
        if not inner:
            return
        level = inner
    raise InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels")


def _children(item: Any) -> Iterator[Any]:
    if isinstance(item, dict):
        yield from item.keys()
        yield from item.values()
    else:
        yield from item


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON can write one half of a surrogate pair; no tokenizer can take it
            raise InvalidRequest("the body holds half of a surrogate pair, which is no character") from None
