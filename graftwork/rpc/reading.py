"""Messages that cannot be read, because they are cut off or have text that is no UTF-8: refused like any other bad request.

gRPC reads a message before the handler is called, and answers by itself when that fails: UNKNOWN, with the parser's class and text, no
request id, no line in the access log, and before it is known who calls. So reading never fails here; what could not be read is handed
on as such, and refused where the interceptor refuses everything else.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from google.protobuf.message import DecodeError

from graftwork.errors import ErrorCode, GraftError


class UnreadableMessage(GraftError):
    """The bytes are no message of the method's type."""

    code: ClassVar[ErrorCode] = ErrorCode.INVALID


@dataclass(frozen=True, slots=True)
class _Unread:
    bytes: int


def later(read: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Returns a deserializer that does not fail; None as it is, for methods that take bytes."""
    if read is None:
        return None

    def attempt(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:  # its text may quote the message
            return _Unread(len(data))

    return attempt


def readable(message: Any) -> Any:
    """Returns a message that could be read.

    Raises:
        UnreadableMessage: it could not be.
    """
    if isinstance(message, _Unread):
        raise UnreadableMessage(
            f"the request's {message.bytes} bytes cannot be read: text must be valid UTF-8, and the message one of this "
            "method's; make it with the client's generated code"
        )
    return message


async def each_readable(messages: Any) -> AsyncIterator[Any]:
    """The same of a stream's messages."""
    async for message in messages:
        yield readable(message)
