"""Short prompts are rendered where they arrive, all others beside the loop, and never two at once; what ends an answer is the template's to say."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from graftwork.template import DEFAULT_CHAT_TEMPLATE, END_OF_TURN
from serving_service.engine.protocol import Message, Prompt, Rendered, TokenIds
from serving_service.engine.rendering import PromptRenderer

STRANGERS = "{% for m in messages %}{{ m.content }}{% endfor %}"


class Tokenizer:
    """A token a character. Refuses concurrent use, as fast ones do, and waits inside long texts until it may go on."""

    chat_template = None
    unk_token_id = None

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.inside, self.go_on = threading.Event(), threading.Event()
        self._borrowed = threading.Lock()

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        assert self._borrowed.acquire(blocking=False), "Already borrowed"
        try:
            self.threads.append(threading.get_ident())
            if len(text) > 5000:
                self.inside.set()
                assert self.go_on.wait(30)
            return {"input_ids": [ord(letter) for letter in text]}
        finally:
            self._borrowed.release()

    def apply_chat_template(self, rows: list[dict[str, str]], **_: Any) -> str:
        return "".join(row["content"] for row in rows)

    def convert_tokens_to_ids(self, token: str) -> int:
        return 7

    def __len__(self) -> int:
        return 1 << 21


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture
def renderer(tokenizer: Tokenizer) -> Iterator[PromptRenderer]:
    made = PromptRenderer(tokenizer, 100_000)
    yield made
    made.close()


def _chat(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


@pytest.mark.parametrize(
    ("prompt", "template", "here"),
    [
        ("x" * 1000, None, True),
        ("x" * 1001, None, False),
        (_chat("x" * 1000), DEFAULT_CHAT_TEMPLATE, True),
        (_chat("x" * 1001), DEFAULT_CHAT_TEMPLATE, False),
        (_chat("x"), STRANGERS, False),
    ],
)
async def test_what_may_take_long_is_not_done_on_the_loop(
    renderer: PromptRenderer, tokenizer: Tokenizer, prompt: Prompt, template: str | None, here: bool
) -> None:
    await renderer.render(prompt, template)

    assert (tokenizer.threads == [threading.get_ident()]) is here


async def test_tokens_come_back_as_they_are(renderer: PromptRenderer) -> None:
    for ids in ((1, 2, 3), tuple(range(5000))):
        assert await renderer.render(TokenIds(ids), None) == Rendered(list(ids), (), (7,))


async def test_a_short_prompt_beside_a_long_one_waits_for_it_off_the_loop(
    renderer: PromptRenderer, tokenizer: Tokenizer
) -> None:
    long = asyncio.create_task(renderer.render("x" * 6000, None))
    await asyncio.to_thread(tokenizer.inside.wait, 30)

    short = asyncio.create_task(renderer.render("yz", None))
    await asyncio.sleep(0)
    assert not short.done()  # and the loop goes on: this line runs
    tokenizer.go_on.set()

    assert (await short).token_ids == [ord("y"), ord("z")]
    assert len((await long).token_ids) == 6000
    assert threading.get_ident() not in tokenizer.threads


@pytest.mark.parametrize(
    ("token", "unknown", "ends"),
    [(7, None, ((), (7,))), (None, None, ((END_OF_TURN,), ())), (3, 3, ((END_OF_TURN,), ()))],
)
def test_only_the_projects_own_template_ends_with_its_end_of_turn_as_a_token_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, token: int | None, unknown: int | None, ends: object
) -> None:
    monkeypatch.setattr(Tokenizer, "convert_tokens_to_ids", lambda self, text: token if text == END_OF_TURN else 0)
    monkeypatch.setattr(Tokenizer, "unk_token_id", unknown)
    made = PromptRenderer(Tokenizer(), 100_000)
    try:
        assert made.ends(DEFAULT_CHAT_TEMPLATE) == ends
        assert made.ends(STRANGERS) == ((), ())
    finally:
        made.close()
