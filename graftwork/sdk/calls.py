"""A call as data, apart from how it travels: the blocking and the asynchronous client make the same ones.

Owns what a call is and when it may be repeated. Does not own which calls there are (`tenants.py`, `jobs.py`, ...) nor the
connection (`blocking/wire.py`, `asynchronous/wire.py`).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from graftwork.client.errors import RemoteDeadline, RemoteError
from graftwork.rpc.status import STATUS

Result = TypeVar("Result")

CALL_TIMEOUT_S = 60.0
"""Of a call with one answer, all its tries together."""
FILE_TIMEOUT_S = 3600.0
"""Of a call that moves or reads whole files."""


class Api(StrEnum):
    """The three gRPC services. The registry is answered by the trainer's server; serving's has one too, over the same store."""

    TRAINER = "trainer"
    REGISTRY = "registry"
    SERVING = "serving"
    REGISTRY_OF_SERVING = "registry of serving"


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """A call with one answer.

    Attributes:
        api, method: where it goes.
        request: the message, or what makes the stream of messages anew for each try.
        convert: turns the answer's message into the result.
        timeout_s: when the caller does not say; None: the client's own.
        repeatable: the services carry it out once however often it arrives, or it changes nothing.
    """

    api: Api
    method: str
    request: Any
    convert: Callable[[Any], Result]
    timeout_s: float | None = None
    repeatable: bool = True

    def message(self) -> Any:
        """What to send in one try."""
        return self.request() if callable(self.request) else self.request


@dataclass(frozen=True, slots=True)
class Listing(Generic[Result]):
    """A call that answers in pages.

    Attributes:
        api, method: where it goes.
        request: makes the message for a page token; the first token is empty.
        items: reads a page's results.
    """

    api: Api
    method: str
    request: Callable[[str], Any]
    items: Callable[[Any], list[Result]]

    def page(self, token: str) -> Call[tuple[list[Result], str]]:
        """One page: its results, and the next one's token, empty after the last."""
        return Call(self.api, self.method, self.request(token), lambda page: (self.items(page), page.next_page_token))


@dataclass(frozen=True, slots=True)
class Stream:
    """A call that answers with messages one by one.

    Attributes:
        api, method: where it goes.
        request: the message, or what makes the stream of messages anew for each try.
        timeout_s: of the whole stream; None: no limit.
    """

    api: Api
    method: str
    request: Any
    timeout_s: float | None = None

    def message(self) -> Any:
        """What to send in one try."""
        return self.request() if callable(self.request) else self.request


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how soon a call is repeated that found the service away or over a limit.

    Attributes:
        retries: tries after the first one.
        first_wait_s, longest_wait_s: between tries, doubling, with jitter; a time that the service names comes before.
    """

    retries: int = 3
    first_wait_s: float = 0.2
    longest_wait_s: float = 3.0

    def wait(self, error: RemoteError, tries: int, left_s: float) -> float | None:
        """Returns in how many seconds to try again, or None to give up.

        Args:
            error: of the newest try.
            tries: that were made.
            left_s: of the caller's time.
        """
        if tries > self.retries or not STATUS[error.code].retry:
            return None
        longest = min(self.longest_wait_s, self.first_wait_s * 2 ** (tries - 1))
        wait = longest * random.uniform(0.5, 1)  # so that clients do not come back all at once
        if error.retry_after_seconds is not None:
            wait = max(wait, error.retry_after_seconds)
        return wait if wait < left_s else None


def explained(error: RemoteError, method: str, seconds: float | None) -> RemoteError:
    """Returns the error that a caller sees: gRPC's words for a time limit of ours say neither which nor what to do."""
    if not isinstance(error, RemoteDeadline) or error.request_id or seconds is None:
        return error
    return RemoteDeadline(
        f"{method} was not answered within {seconds:g} s: give it more with timeout=, or look whether the service is busy "
        "(`graft status`)"
    )


class FileProgress:
    """Counts a file's bytes for a caller's progress bar; a try that begins again begins at zero."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self._total, self._report, self._done = total, report, 0

    def restart(self) -> None:
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        if self._report:
            self._report(self._done, self._total)
