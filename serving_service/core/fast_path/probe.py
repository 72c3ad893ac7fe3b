"""Comparison of a merged engine with the swapped path, before traffic moves to it.

Owns the prompts, the tolerances and the verdict. Does not own engines.

Why not equal to the last bit: merging rounds each weight W + BA to bfloat16 once (relative error up to 2^-9), the swapped
path rounds Wx and BAx apart; both are right. A logit between 8 and 16 has steps of 0.0625 in bfloat16, one between 16 and 32
of 0.125, so two tokens that are as good as equally likely may swap places, and then the texts go apart. An adapter that was
not applied, applied twice, or is another one's changes log-probabilities by whole nats on the way to tokens that differ.
"""

import contextlib
from dataclasses import dataclass

from adapter_store.manifest import VersionManifest
from serving_service.core.admission import Admission, Wish
from serving_service.core.errors import MergedUnlike
from serving_service.core.residency import Residency
from serving_service.core.tenant_policies import OPERATORS
from serving_service.engine.protocol import Engine, LoraRef, Message, PromptRefused, Rendered, Sampling, TokenScores

TIE_NATS = 0.25
"""Most by which the swapped path may prefer its own token to the merged engine's where they part: two steps of a logit
between 16 and 32, one on each path."""
MEAN_NATS = 0.1
"""Most that log-probabilities of the tokens which both chose may differ in the mean; single ones are off by a step of a logit
(0.0625), their mean by much less."""
TOKENS = 24
_TOP = 8  # likeliest tokens that the swapped path tells of each place; one that is no tie is not among them
PROMPTS = (
    "Hello, who are you?",
    "name:Ada Byron city:London id:7421\nticket",
    "Write one short sentence about the sea.",
    "2 4 8 16",
)
"""Short, of plain characters, and of several kinds: what the adapter does on one of them it need not do on another."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike the two paths were.

    Attributes:
        tokens: that were compared.
        mean_nats: mean difference of their log-probabilities.
        parted: prompts on which the texts went apart at a tie.
    """

    tokens: int
    mean_nats: float
    parted: int


Expected = tuple[Rendered, TokenScores]
"""A prompt, and what the swapped path answers."""


class Prober:
    """Compares.

    Args:
        engine: the backbone's, which runs the swapped path.
        admission: lets probes in as an operator's requests, so that they take the slots' turns as all others do.
        residency: has the adapter.
    """

    def __init__(self, engine: Engine, admission: Admission, residency: Residency) -> None:
        self._engine, self._admission, self._residency = engine, admission, residency

    async def swapped(self, manifest: VersionManifest) -> list[Expected]:
        """Runs the prompts on the swapped path; under load it waits for its turn like all others.

        Raises:
            EngineUnavailable: the backbone is gone. Else as `Admission.admit` and `Residency.lease`.
        """
        name = _name(manifest)
        wish = Wish(OPERATORS, name, input_tokens=len(PROMPTS) * TOKENS, loads=self._engine.tier(name) is None)
        swapped: list[Expected] = []
        async with self._admission.admit(wish) as admitted, self._residency.lease(manifest) as lease:
            admitted.loaded()
            for number, text in enumerate(PROMPTS):
                rendered = await self._rendered(text, lease.template)
                swapped.append(
                    (rendered, await _greedy(self._engine, rendered, lease.lora, f"{name}#{number}-swapped"))
                )
        return swapped

    async def compare(self, manifest: VersionManifest, swapped: list[Expected], merged: Engine) -> Agreement:
        """Runs them on the merged engine, and compares. The adapter has been given back by then: others may need it.

        Raises:
            MergedUnlike: the merged engine answers in another way.
            EngineUnavailable: it is gone.
        """
        answers = [
            await _greedy(merged, rendered, None, f"{_name(manifest)}#{number}-merged")
            for number, (rendered, _) in enumerate(swapped)
        ]
        return agreement([scores for _, scores in swapped], answers)

    async def _rendered(self, text: str, template: str) -> Rendered:
        try:
            return await self._engine.render((Message("user", text),), template)
        except PromptRefused:  # a template may insist on more than one turn
            return await self._engine.render(text, template)


def _name(manifest: VersionManifest) -> str:
    """As residency and the engine call it."""
    return f"{manifest.tenant}/{manifest.adapter}@{manifest.version}"


async def _greedy(engine: Engine, rendered: Rendered, lora: LoraRef | None, request_id: str) -> TokenScores:
    sampling = Sampling(temperature=0.0, max_tokens=TOKENS, logprobs=True, top_logprobs=_TOP)
    ids, logprobs, top = list[int](), list[float](), list[tuple[tuple[int, float], ...]]()
    async with contextlib.aclosing(engine.generate(request_id, rendered, sampling, lora=lora, tenant="")) as deltas:
        async for delta in deltas:
            if delta.scores is not None:
                ids += delta.scores.token_ids
                logprobs += delta.scores.logprobs
                top += delta.scores.top
    return TokenScores(tuple(ids), tuple(logprobs), tuple(top))


def agreement(swapped: list[TokenScores], merged: list[TokenScores]) -> Agreement:
    """Judges the answers to the same prompts; raises MergedUnlike."""
    differences, parted = list[float](), 0
    for number, (ours, theirs) in enumerate(zip(swapped, merged, strict=True)):
        same = _same(ours.token_ids, theirs.token_ids)
        differences += [abs(a - b) for a, b in zip(ours.logprobs[:same], theirs.logprobs[:same], strict=True)]
        if same == len(ours.token_ids) == len(theirs.token_ids):
            continue
        parted += 1
        _require_tie(number, same, ours, theirs)
    mean = sum(differences) / len(differences) if differences else 0.0
    # Written so that NaN fails.
    if not mean <= MEAN_NATS:
        raise MergedUnlike(
            f"log-probabilities of the same {len(differences)} tokens differ from the swapped path's by {mean:.3f} nats in the "
            f"mean; at most {MEAN_NATS} is rounding"
        )
    return Agreement(len(differences), mean, parted)


def _same(ours: tuple[int, ...], theirs: tuple[int, ...]) -> int:
    """Tokens until the answers part."""
    return next(
        (at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]),
        min(len(ours), len(theirs)),
    )


def _require_tie(number: int, at: int, ours: TokenScores, theirs: TokenScores) -> None:
    if at >= len(ours.token_ids) or at >= len(theirs.token_ids):
        raise MergedUnlike(
            f"on probe {number} the swapped path gave {len(ours.token_ids)} tokens and the merged engine "
            f"{len(theirs.token_ids)}, the first {at} of them the same"
        )
    known = dict(ours.top[at]) if at < len(ours.top) else {}
    other = known.get(theirs.token_ids[at])
    if other is None or not abs(ours.logprobs[at] - other) <= TIE_NATS:
        found = (
            f"{ours.logprobs[at] - other:.3f} nats behind" if other is not None else f"not among its {_TOP} likeliest"
        )
        raise MergedUnlike(
            f"on probe {number} the merged engine went another way at token {at}: the swapped path has that token {found}; at "
            f"most {TIE_NATS} is rounding"
        )
