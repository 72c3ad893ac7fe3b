"""The serving service's side of the probe, over gRPC: the published version and the base, asked for the same tokens.

Owns waiting for a service that is away, and telling 'cannot ask' from 'asked, and it is wrong'. Does not own the
comparison (`core.probe`).
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from graftwork.client import Client
from graftwork.client.channel import Identity
from graftwork.client.errors import (
    RemoteDeadline,
    RemoteError,
    RemoteExhausted,
    RemoteForbidden,
    RemoteInternal,
    RemoteUnauthenticated,
    RemoteUnavailable,
)
from graftwork.operator_keys import first_plain
from graftwork.v1 import serving_pb2
from trainer_service.core.events import Notice, NoticeLevel, Probed, ProbeOutcome
from trainer_service.core.probe import ProbeRow, Scores, compare
from trainer_service.core.worker_messages import ProbeSpec, WorkerSpec

CALL_SECONDS = 60.0
MAX_BREAKS = 2
"""Calls that may break off: an adapter that kills the engine would otherwise kill it again after each of its restarts."""
_PAUSE = 1.0
_CANNOT_ASK = (RemoteUnauthenticated, RemoteForbidden)
_BROKEN = (RemoteUnavailable, RemoteDeadline, RemoteInternal)
T = TypeVar("T")


class CannotAsk(Exception):
    """Nothing was learned about the adapter."""


class ServedWrongly(Exception):
    """The serving service would not answer with the adapter, and says why."""


def probe(
    spec: WorkerSpec, version: str, rows: Sequence[ProbeRow], own: Scores | None, say: Callable[[Notice], None]
) -> Probed:
    """Asks the serving service and compares; waits while it is away.

    Args:
        spec: whose adapter, and where to ask.
        version: digest of the published version; no alias needs to point at it.
        rows: to score.
        own: the trainer's scores; None when there is nothing to compare with.
        say: takes a notice while it waits.

    Returns:
        PASSED or FAILED; SKIPPED where nobody could be asked and the probe is not required.
    """
    if spec.probe is None:
        return Probed(outcome=ProbeOutcome.SKIPPED, message="no serving service is configured to compare with")
    if own is None or not rows:
        return Probed(outcome=ProbeOutcome.SKIPPED, message="no held-out row is short enough to compare")
    questions = _Questions(spec, spec.probe, say)
    try:
        kept = questions.fitting(rows)
        served = questions.scores(version, [rows[at] for at in kept])
    except ServedWrongly as error:
        return Probed(outcome=ProbeOutcome.FAILED, message=str(error))
    except CannotAsk as error:
        if spec.probe.mode == "require":
            return Probed(outcome=ProbeOutcome.FAILED, message=f"{error}, and the probe is required")
        return Probed(outcome=ProbeOutcome.SKIPPED, message=str(error))
    finally:
        questions.hang_up()
    return compare(own.of(kept), served, bits=spec.recipe.bits)


class _Questions:
    """The questions of one probe, over one connection for as long as it holds."""

    def __init__(self, spec: WorkerSpec, where: ProbeSpec, say: Callable[[Notice], None]) -> None:
        self._spec, self._where, self._say = spec, where, say
        self._deadline = time.monotonic() + where.wait_seconds
        self._breaks, self._told = 0, False
        self._client: Client | None = None

    def fitting(self, rows: Sequence[ProbeRow]) -> list[int]:
        """Returns which rows the serving service has room for, prompt and one token of an answer together."""
        room = self._ask(lambda client: client.serving_info().max_model_len)
        kept = [at for at, row in enumerate(rows) if len(row.ids) < room]
        if not kept:
            raise CannotAsk(f"no held-out row fits the {room} tokens that the serving service takes")
        return kept

    def scores(self, version: str, rows: Sequence[ProbeRow]) -> Scores:
        """Returns the log-probabilities of the rows' response tokens."""
        model = f"{self._spec.adapter}@{version}"
        return Scores(
            adapter=tuple(self._score(model, row) for row in rows), base=tuple(self._score("", row) for row in rows)
        )

    def _score(self, model: str, row: ProbeRow) -> tuple[float, ...]:
        request = serving_pb2.GenerateRequest(
            parent=f"tenants/{self._spec.tenant}",
            model=model,
            tokens=serving_pb2.TokenIds(ids=row.ids),
            sampling=serving_pb2.Sampling(temperature=0, max_tokens=1),
            prompt_logprobs=True,
        )
        found = self._ask(lambda client: client.generate(request, timeout=CALL_SECONDS).prompt_logprobs)
        # Of the prompt's tokens from the second on.
        return tuple(found[place - 1] for place in row.response)

    def _ask(self, question: Callable[[Client], T]) -> T:
        """Asks until there is an answer, or it is known that there will be none."""
        while True:
            try:
                return question(self._connected())
            except RemoteExhausted as error:  # a limit of the tenant's, or a full cache
                self._wait(f"the serving service is busy: {error}")
            except _CANNOT_ASK as error:
                raise CannotAsk(f"the serving service refuses this trainer's key: {error}") from error
            except _BROKEN as error:
                self.hang_up()
                self._breaks += 1
                if self._breaks >= MAX_BREAKS:
                    raise ServedWrongly(f"the serving service broke off {self._breaks} times: {error}") from error
                self._wait(f"the serving service broke off: {error}")
            except RemoteError as error:
                raise ServedWrongly(f"the serving service cannot answer with the version: {error}") from error

    def _connected(self) -> Client:
        """Waits until the service says that it serves."""
        while self._client is None:
            address = self._address()
            if address:
                client = Client(address, address, self._key(), self._where.tls_ca, self._identity())
                if client.serving.is_serving():
                    self._client = client
                    break
                client.close()
            self._wait(f"no serving service answers at {address or self._where.address_file}")
        return self._client

    def hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _identity(self) -> Identity | None:
        certificate, key = self._where.tls_certificate, self._where.tls_key
        return Identity(certificate, key) if certificate and key else None

    def _address(self) -> str:
        if self._where.address or self._where.address_file is None:
            return self._where.address
        try:
            return self._where.address_file.read_text().strip()
        except OSError:  # written once the service has bound its port
            return ""

    def _key(self) -> str:
        try:
            key = first_plain(self._where.operator_key_file.read_text())
        except OSError:
            key = None
        if key is None:
            raise CannotAsk(f"there is no operator key in {self._where.operator_key_file}")
        return key

    def _wait(self, why: str) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise CannotAsk(f"{why}, for {self._where.wait_seconds:g} s")
        if not self._told:
            self._told = True
            text = f"{why}; waiting up to {self._where.wait_seconds:g} s for the probe"
            self._say(Notice(level=NoticeLevel.INFO, message=text))
        time.sleep(min(_PAUSE, left))
