"""What the services have promised: every answer and every acknowledgement, as the callers got them.

Owns the record; what it must agree with is `invariants.py`'s.
"""

import threading
from collections import Counter
from dataclasses import dataclass, field

Owner = tuple[str, str]
"""(tenant, adapter)."""


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer: who asked what, and what came of which version."""

    owner: Owner
    prompt: str
    version: str
    text: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A call that failed."""

    call: str
    code: str
    message: str
    may_be_repeated: bool


@dataclass
class Ledger:
    """Filled by threads, read when they have ended.

    Attributes:
        answers: of adapters whose right answers are known.
        refusals: of all calls.
        jobs: name of each acknowledged job to its owner.
        versions: acknowledged (tenant, adapter, version).
        moves: acknowledged (number, version) of each alias.
        keys: secret of each acknowledged key to its tenant.
        revoked: secret of each key whose end was acknowledged, to its tenant.
        doubtful: secrets of keys whose end was asked for, and not acknowledged.
    """

    answers: list[Generated] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    jobs: dict[str, Owner] = field(default_factory=dict)
    versions: set[tuple[str, str, str]] = field(default_factory=set)
    moves: dict[Owner, list[tuple[int, str]]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    revoked: dict[str, str] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def codes(self) -> dict[str, int]:
        """How often each call was refused, by call and code."""
        return dict(Counter(f"{refused.call} {refused.code}" for refused in self.refusals))
