"""Changes that may be repeated when their answer was lost: which request made a record, noted in the log itself.

Owns the notes and what a repeat is. A record carries the notes of the changes before it, so the current one, which every
change reads anyway, says whether a request was carried out; nothing else is asked, and nothing else is stored. The look-back
is bounded by `REMEMBERED`: a client repeats within seconds, not after dozens of other changes to the same thing.
"""

import hashlib
import re
from dataclasses import dataclass

from adapter_store.documents import Document
from adapter_store.errors import InvalidRequestId, RequestIdReused
from adapter_store.numbered_log import Numbered

REMEMBERED = 32
"""Changes of one log whose requests are known."""
_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class Request:
    """A change as its caller names it."""

    id: str
    """Chosen by the caller."""
    digest: str
    """Of what is asked for and who asks: the same id with another one is a mistake, not a repeat."""

    def about(self, detail: str) -> "Request":
        """Returns the part of this request that concerns `detail`, when one request makes several changes."""
        return Request(self.id, _digest(self.digest.encode(), detail.encode()))


class RequestMark(Document):
    """The note of one change."""

    id: str
    digest: str
    number: int
    """Of the record that the request made."""


class Repeatable(Numbered):
    """Base of records whose changes may be repeated."""

    requests: tuple[RequestMark, ...] = ()
    """Of the newest changes up to this record, oldest first; those that came without an id are left out."""


def request(request_id: str, *content: bytes) -> Request | None:
    """Returns what names a change; None for the empty id.

    Args:
        request_id: as the caller sent it.
        content: all that makes two requests the same one, the caller included.

    Raises:
        InvalidRequestId: too long, or not printable ASCII.
    """
    if not request_id:
        return None
    if _ID.fullmatch(request_id) is None:
        raise InvalidRequestId("request_id is 1 to 128 printable ASCII characters without blanks; a UUID is a good one")
    return Request(request_id, _digest(*content))


def made_by(current: Repeatable | None, request: Request | None) -> int | None:
    """Returns the number of the record that a request made before; None when it is new, or forgotten.

    Args:
        current: the log's newest record.
        request: None for a caller that gave no id.

    Raises:
        RequestIdReused: the id belongs to another request.
    """
    if current is None or request is None:
        return None
    for mark in current.requests:
        if mark.id == request.id:
            if mark.digest != request.digest:
                raise RequestIdReused(
                    f"request_id {request.id} was used for another request; take a new one for each change"
                )
            return mark.number
    return None


def marks(current: Repeatable | None, request: Request | None, number: int) -> tuple[RequestMark, ...]:
    """Returns the notes of the record `number` that follows `current`; a request that is noted already moves to it."""
    before = without(current, request)
    if request is not None:
        before = (*before, RequestMark(id=request.id, digest=request.digest, number=number))
    return tuple(mark for mark in before if mark.number > number - REMEMBERED)


def without(current: Repeatable | None, request: Request | None) -> tuple[RequestMark, ...]:
    """Returns the notes of a record that takes a request's change back, so that a repeat is carried out anew."""
    found = current.requests if current else ()
    return tuple(mark for mark in found if request is None or mark.id != request.id)


def _digest(*content: bytes) -> str:
    digest = hashlib.sha256()
    for part in content:
        digest.update(len(part).to_bytes(8, "big") + part)  # lengths, so that no two lists of parts look the same
    return digest.hexdigest()[:32]
