"""The demo's requests: cold and warm first tokens, then everything at once."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from graftwork.client import Answer, Client
from graftwork.client.generation import collect
from graftwork.demo.tasks import DEMO_TASKS, DemoTask
from graftwork.template import user_content
from graftwork.v1 import serving_pb2 as pb

CONCURRENCY = 16
MAX_TOKENS = 80
WARM_REQUESTS = 5


@dataclass(frozen=True, slots=True)
class Question:
    """One held-out row asked of the base (`adapter` empty) or of its tenant's adapter."""

    task: DemoTask
    adapter: str
    prompt: str
    expected: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its answer."""

    question: Question
    answer: Answer

    @property
    def is_right(self) -> bool:
        return self.answer.text.strip() == self.question.expected


def questions(task: DemoTask, rows: Sequence[dict[str, str]], adapter: str) -> list[Question]:
    """Makes a question of each held-out row."""
    return [Question(task, adapter, user_content(row["instruction"], row["input"]), row["response"]) for row in rows]


def request_for(question: Question) -> pb.GenerateRequest:
    """A greedy chat request."""
    return pb.GenerateRequest(
        model=question.adapter,
        chat=pb.Messages(messages=[pb.Message(role="user", content=question.prompt)]),
        sampling=pb.Sampling(temperature=0.0, max_tokens=MAX_TOKENS),
    )


def first_token_ms(client: Client, question: Question) -> tuple[float, Answer]:
    """Asks once; returns the milliseconds until the first text reached us, and the answer."""
    start, first, pieces = time.monotonic(), 0.0, []
    for piece in client.stream_generate(request_for(question)):
        if not first and piece.WhichOneof("part") == "text":
            first = (time.monotonic() - start) * 1e3
        pieces.append(piece)
    return first, collect(pieces)


def cold_and_warm(client: Client, asked: Sequence[Question]) -> tuple[float, float]:
    """Returns (cold, median warm) milliseconds to the first token; the first question must meet a cold adapter."""
    cold, _ = first_token_ms(client, asked[0])
    warm = [first_token_ms(client, question)[0] for question in asked[1 : 1 + WARM_REQUESTS]]
    return cold, statistics.median(warm)


def ask_all(clients: dict[str, Client], mixed: list[Question], done: Callable[[], None]) -> list[Asked]:
    """Asks everything, shuffled, CONCURRENCY at a time, each with its own tenant's key."""
    random.Random(0).shuffle(mixed)

    def ask(question: Question) -> Asked:
        answer = clients[question.task.tenant].generate(request_for(question), timeout=300)
        done()
        return Asked(question, answer)

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return list(pool.map(ask, mixed))


def is_foreign(asked: Asked, versions: dict[str, str]) -> bool:
    """Tells whether an answer came from another tenant's adapter.

    Args:
        asked: question and answer.
        versions: tenant -> digest of its version.
    """
    own = asked.question.task
    if asked.answer.version != (versions[own.tenant] if asked.question.adapter else ""):
        return True
    text = asked.answer.text.strip()
    others = [task for task in DEMO_TASKS if task is not own or not asked.question.adapter]
    return any(task.layout.fullmatch(text) for task in others)
