"""Serving only what somebody trusted has signed, when the operator asks for it.

Owns the question for each request and the memory of its answers, so that a warm request costs the store nothing. Does not own
keys (`graftwork.signing`) nor kept signatures (`adapter_store.signatures`).
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from adapter_store.manifest import VersionManifest
from adapter_store.outage import Outage
from graftwork.signing import InvalidKeyFile, PublicKey, TrustedKeys
from serving_service.core.errors import Untrusted

_CACHED = 4096  # answers kept

log = structlog.get_logger(__name__)


class SignatureSource(Protocol):
    """The one call of the store that trust needs; sync and thread-safe."""

    def signer(self, manifest: VersionManifest, trusted: Mapping[str, PublicKey]) -> str | None: ...


class Trust:
    """Refuses versions that no trusted key has signed.

    A good answer stands for as long as its key is trusted: a manifest never changes, and another manifest is another
    question. A bad one is asked again after `again_seconds`, so that a version can be signed after it was refused.

    Args:
        signatures: the store's.
        keys: who is trusted now; read again when they change.
        again_seconds: for how long a refusal is reused.
        clock: seconds, monotonic.
        outage: what is known of the store; shared with others that ask it.
    """

    def __init__(
        self,
        signatures: SignatureSource,
        keys: TrustedKeys,
        *,
        again_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        outage: Outage | None = None,
    ) -> None:
        self._signatures, self._keys, self._outage = signatures, keys, outage or Outage(clock)
        self._again_seconds, self._clock = again_seconds, clock
        self._signers: OrderedDict[str, PublicKey] = OrderedDict()
        self._refused: OrderedDict[str, tuple[float, frozenset[str]]] = OrderedDict()

    async def require(self, manifest: VersionManifest) -> None:
        """Returns when a key that is trusted now has signed a version.

        Raises:
            Untrusted: none has, or the trusted keys cannot be read.
            StoreUnavailable: nothing is known of this version, and the store does not answer.
        """
        try:
            trusted = self._keys.current()
        except InvalidKeyFile as error:
            log.error("no trusted keys", cause=str(error))
            raise Untrusted(
                f"this service serves signed versions only, and its trusted keys cannot be read: {error}"
            ) from None
        # Of the manifest itself, tenant and adapter included: what is signed, not what it calls itself.
        question = manifest.document_sha256
        known = self._signers.get(question)
        if known is not None and trusted.get(known.id) == known:
            self._signers.move_to_end(question)
            return
        until, asked = self._refused.get(question, (0.0, frozenset[str]()))
        if until <= self._clock() or asked != trusted.keys():
            signer = await asyncio.to_thread(self._signer, manifest, trusted)
            if signer is not None:
                self._signers[question] = trusted[signer]
                _bound(self._signers)
                return
            self._refused[question] = (self._clock() + self._again_seconds, frozenset(trusted))
            _bound(self._refused)
        self._signers.pop(question, None)
        raise Untrusted(
            f"version {manifest.version} of adapter {manifest.adapter} has no valid signature by a key that this service "
            "trusts; sign it with `graft adapter sign`, or ask the operator which keys are trusted"
        )

    def _signer(self, manifest: VersionManifest, trusted: Mapping[str, PublicKey]) -> str | None:
        with self._outage.question():
            return self._signatures.signer(manifest, trusted)


def _bound(answers: "OrderedDict[str, PublicKey] | OrderedDict[str, tuple[float, frozenset[str]]]") -> None:
    while len(answers) > _CACHED:
        answers.popitem(last=False)
