"""What a step computes where one tenant uses more than its share and others come: their prompts alone, and few of its own.

A first token waits for the step under way and for its own. A flood makes both long: its answers share the newcomer's step, and
whenever many of them end together, so many of its prompts begin in one step that it takes several times as long. Here prompts of
newcomers are computed in steps of their own, half of all at most, and while there are newcomers the flood's prompts join a
step only as far as it stays short, or below twice what it takes without. Admission says who is a newcomer
(`core.admission_queue`).

Where nobody is, one thing is left: a prompt that would make those who answer wait long for their next token comes in a few pieces.

Owns these decisions and what they are learned from. Pure, of counts and seconds; `slot_scheduler` carries them out. For engines
that wait for each step (CPUs): on a GPU a prompt that joins a step costs it next to nothing.
"""

from collections.abc import Sequence

MOST_ALONE = 512
"""Prompt tokens that may hold up everybody else's answers. Above it prompts join the others' steps, as vLLM has them."""
FEW = 4
"""Below so many answers under way, a prompt's own step costs more (the step's fixed part) than it spares."""
LONGER = 1.0
"""By which part of it prompts may lengthen a step."""
EASY_S = 0.03
"""Or up to this length: such a step is left for a newcomer, at little cost (`step_under_way`). Shorter pieces cost the flood some of its
tokens and spared newcomers nothing that the benchmark's noise would show (docs/benchmarks.md)."""
LEAST_TOKENS = 32
"""Of prompts that a step takes anyway, so that a flood goes on however slow steps are."""
PRESENT_S = 10.0
"""After a newcomer others are expected: the steps that they find under way must be short before they come."""
SAVED = 2
"""Steps of their own that newcomers may have one after the other: who comes during one would wait for a step of the flood's. As many
others' steps have to come before they may again, so that newcomers have half of the steps at most."""
SHORT_S = 0.07
"""Nobody minds a step of this length, whatever is in it: fourteen a second. What comes beside an adapter's load, where steps scatter most,
is cut earlier, for there a token is taken to cost `CROWDED` times as much."""
PIECES = 3
"""That a prompt is cut into at most for the sake of those who answer; each costs it one of their steps, so where these are long, into
two: a newcomer waits `LATER_S` more at most, or one step where that is longer."""
LATER_S = 0.12
LONGER_PIECE = 0.5
"""As `LONGER`, of such a piece."""
CROWDED = 2.0
"""How much longer a prompt's token takes beside an adapter's load."""
_LEARNING = 0.1
_FEW_SEEN = 10
"""Steps that are learned from as their mean, where the first would stand for long."""
_TELLING = 8  # prompt tokens below which a step's length says little of what one costs


class StepShares:
    """Decides step by step."""

    def __init__(self) -> None:
        self._saved = self._before = SAVED
        self._newest = float("-inf")
        self._plain_s: float | None = None  # of a step without prompts
        self._token_s: float | None = None  # that each prompt token adds to one
        self._plain_seen = self._token_seen = 0  # steps that they were learned from

    def alone(self, newcomers: Sequence[int], answering: int, now: float) -> bool:
        """Begins a step: tells whether it is the newcomers' alone.

        Args:
            newcomers: what of their prompts is to be computed, tokens.
            answering: requests of others that are past their prompt.
            now: seconds, monotonic.
        """
        if newcomers:
            self._newest = now
        alone = bool(newcomers) and answering >= FEW and self._saved > 0 and sum(newcomers) <= MOST_ALONE
        self._before = self._saved
        self._saved = self._saved - 1 if alone else min(SAVED, self._saved + 1)
        return alone

    def may_give_way(self, answering: int) -> bool:
        """Whether the step that has just begun, the others', would be followed by one of newcomers alone, if it were left for them."""
        return answering >= FEW and self._before > 0

    def given_way(self) -> None:
        """The step that has just begun was left, and is none."""
        self._saved = self._before

    def prompt_tokens(self, newcomers: Sequence[int], answering: int, now: float) -> int | None:
        """Returns how many prompt tokens the step may take; None: any number. What newcomers wait for always fits.

        Args:
            newcomers, answering, now: as above.
        """
        if answering < FEW or now - self._newest > PRESENT_S or sum(newcomers) > MOST_ALONE:
            return None
        learned = 0.0
        if self._plain_s is not None and self._token_s is not None:
            learned = max(LONGER * self._plain_s, EASY_S - self._plain_s) / self._token_s
        return max(LEAST_TOKENS, min(int(learned), MOST_ALONE), sum(newcomers))

    def piece(self, prompts: Sequence[tuple[int, int]], answering: int, *, crowded: bool = False) -> int:
        """Returns how many tokens of each prompt a step takes where nobody floods; 0: any number.

        Args:
            prompts: of each that could be computed: its tokens, and how many of them are left.
            answering: requests that are past their prompt.
            crowded: something else has a core: a token takes `CROWDED` times as long.
        """
        if not prompts or not answering or self._plain_s is None or self._token_s is None:
            return 0
        token_s = self._token_s * (CROWDED if crowded else 1.0)
        if self._plain_s + sum(left for _, left in prompts) * token_s <= SHORT_S:
            return 0
        longest = max(whole for whole, _ in prompts)
        pieces = max(2, min(PIECES, 1 + int(LATER_S / self._plain_s)))
        return max(_TELLING, int(LONGER_PIECE * self._plain_s / token_s / len(prompts)), -(-longest // pieces))

    def learn(self, seconds: float, prompt_tokens: int, *, crowded: bool = False) -> None:
        """Takes in how long a step took.

        Args:
            seconds: from its schedule to its tokens.
            prompt_tokens: among those that it computed. Not of steps that were newcomers' alone, which lack the others' part.
            crowded: as above; such a step counts only as long as little is known, or traffic that always loads would teach nothing.
        """
        if not prompt_tokens:
            if not (crowded and self._plain_seen >= _FEW_SEEN):
                self._plain_seen += 1
                self._plain_s = _mean(self._plain_s, seconds, self._plain_seen)
            return
        # A step that took no longer than those without prompts says that these are not known yet.
        if prompt_tokens < _TELLING or self._plain_s is None or seconds <= self._plain_s:
            return
        if not (crowded and self._token_seen >= _FEW_SEEN):
            self._token_seen += 1
            token_s = (seconds - self._plain_s) / prompt_tokens / (CROWDED if crowded else 1.0)
            self._token_s = _mean(self._token_s, token_s, self._token_seen)


def _mean(old: float | None, new: float, seen: int) -> float:
    """Of the first ones as they are, then of the last ones."""
    return new if old is None else old + max(_LEARNING, 1 / seen) * (new - old)
