"""Requests under way while an alias is promoted and cut over to a new version: how many of them went wrong.

Owns the traffic and what counts as an error: a call that failed, that did not bring every token, or that a version answered
which the alias did not name. Does not own the service.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from benchmarks.gateway import wire
from graftwork.v1 import serving_pb2

PROMPT, ANSWER = 8, 8
"""Tokens."""
AT_ONCE = 2
PAUSE_SECONDS = 0.2
"""After each answer: requests that came without an end would be most of what two cores do, and a merge of minutes."""
_METHOD = "/graftwork.v1.ServingService/Generate"


class Traffic:
    """Requests of one alias, over and over, from `async with` on to its end.

    Args:
        address: of the service.
        key: a tenant's.
        model: names the alias.
        vocabulary: tokens to draw prompts from.

    Attributes:
        versions: that may answer; versions may be added at any time.
        answered: whole answers, by route and version.
        errors: what went wrong, by what it was.
    """

    def __init__(self, address: str, key: str, model: str, vocabulary: int, versions: set[str]) -> None:
        self._address, self._key, self._model, self._vocabulary = address, key, model, vocabulary
        self.versions = versions
        self.answered: Counter[tuple[str, str]] = Counter()
        self.errors: Counter[str] = Counter()
        self._ending, self._heard = False, asyncio.Event()

    async def __aenter__(self) -> "Traffic":
        self._workers = [asyncio.create_task(self._work(seed)) for seed in range(AT_ONCE)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending = True
        await asyncio.gather(*self._workers)

    async def until(self, what: str, reached: Callable[[], bool], seconds: float) -> None:
        """Lets it run until something holds; looked at after each answer.

        Raises:
            SystemExit: it did not come in time.
        """
        try:
            async with asyncio.timeout(seconds):
                while not reached():
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            raise SystemExit(f"{what}: not in {seconds:.0f} s; answers {self.answered}, errors {self.errors}") from None

    async def _work(self, seed: int) -> None:
        draw = random.Random(seed)
        connection = await wire.connect(self._address, _METHOD, self._key)
        while not self._ending:
            sampling = serving_pb2.Sampling(temperature=0, max_tokens=ANSWER, ignore_eos=True)
            ids = serving_pb2.TokenIds(ids=[draw.randrange(10, self._vocabulary) for _ in range(PROMPT)])
            request = serving_pb2.GenerateRequest(model=self._model, tokens=ids, sampling=sampling)
            self._heard.set()
            try:
                answer = b"".join([piece async for piece in connection.call(request.SerializeToString())])
            except ConnectionError as error:  # counted, as a caller would see it
                self.errors[str(error)] += 1
                connection = await wire.connect(self._address, _METHOD, self._key)
                continue
            self._count([serving_pb2.GenerateResponse.FromString(one) for one in wire.messages(answer)])
            await asyncio.sleep(PAUSE_SECONDS)

    def _count(self, parts: list[serving_pb2.GenerateResponse]) -> None:
        if not parts or parts[-1].WhichOneof("part") != "finished":
            self.errors["an answer ended before its end"] += 1
        elif (came := parts[-1].finished.usage.completion_tokens) != ANSWER:
            self.errors[f"{came} tokens came of {ANSWER}"] += 1
        elif (version := parts[0].started.version) not in self.versions:
            self.errors["a version answered that the alias does not name"] += 1
        else:
            self.answered[serving_pb2.Route.Name(parts[0].started.route), version] += 1
