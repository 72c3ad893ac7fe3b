"""Model names, the two short caches and the backbone check, on the real filesystem store's errors and models."""

import asyncio
import threading
from datetime import UTC, datetime

import pytest

from adapter_store import Target, VersionManifest
from adapter_store.errors import NotFound, StoreUnavailable
from serving_service.core.errors import AdapterUnfit, InvalidRequest, WrongBackbone
from serving_service.core.routing import ModelName, Router, _Answer, _Answers, parse_model
from serving_service.core.sampling import SamplingWish, resolve_sampling

BASE, OTHER, V1, V2 = "a" * 64, "b" * 64, "1" * 64, "2" * 64


def manifest(version: str, *, base: str = BASE, rank: int = 8) -> VersionManifest:
    return VersionManifest.model_validate(
        {
            "tenant": "acme",
            "adapter": "task",
            "version": version,
            "created_at": datetime.now(UTC),
            "files": (),
            "base_model": "some-base",
            "base_revision": None,
            "base_digest": base,
            "template_digest": "c" * 64,
            "config": {},
            "rank": rank,
            "alpha": 16.0,
            "target_modules": ("q_proj",),
            "dtype": "F32",
            "parameters": 1,
            "made": {"made_by": "tests"},
        }
    )


class Book:
    """Answers by hand, and counts."""

    def __init__(self) -> None:
        self.prod: VersionManifest | None = manifest(V1)
        self.asked = 0
        self.now = 0.0
        self.split: tuple[Target, ...] = ()
        self.drawn = 0.5
        self.failure: Exception | None = None
        self.gate, self.reached = threading.Event(), threading.Event()
        self.gate.set()

    def targets(
        self, tenant: str, adapter: str, *, alias: str | None = None, version: str | None = None
    ) -> tuple[Target, ...]:
        self.asked += 1
        prod = self.prod
        self.reached.set()
        assert self.gate.wait(20)
        if self.failure:
            raise self.failure
        if tenant != "acme" or adapter != "task" or prod is None or alias not in ("prod", None):
            raise NotFound("adapter does not exist")
        return self.split or (Target(prod, 1),)


def router(book: Book) -> Router:
    return Router(book, base_digest=BASE, max_lora_rank=16, clock=lambda: book.now, draw=lambda: book.drawn)


def test_model_texts() -> None:
    assert parse_model("") is None
    assert parse_model("task") == ModelName("task", alias="prod")
    assert parse_model("task:canary") == ModelName("task", alias="canary")
    assert parse_model(f"task@{V1}") == ModelName("task", version=V1)


@pytest.mark.parametrize(
    "text", ["Task", "task:", "task@", "task@12", "globex/task", "../x", "a:b:c", f"t@{V1}@x", " task"]
)
def test_wrong_model_texts_are_invalid(text: str) -> None:
    with pytest.raises(InvalidRequest, match="model"):
        parse_model(text)


async def test_alias_is_asked_again_within_a_second() -> None:
    book = Book()
    route = router(book)
    for _ in range(5):
        assert (await route.resolve("acme", "task")).version == V1  # type: ignore[union-attr]
    assert book.asked == 1
    book.prod = manifest(V2)
    book.now = 1.01
    assert (await route.resolve("acme", "task")).version == V2  # type: ignore[union-attr]


async def test_not_found_is_remembered_for_a_second_and_per_tenant() -> None:
    book = Book()
    book.prod = None
    route = router(book)
    for _ in range(3):
        with pytest.raises(NotFound):
            await route.resolve("acme", "task")
    assert book.asked == 1
    book.prod = manifest(V1)
    book.now = 1.01
    assert await route.resolve("acme", "task") is not None
    with pytest.raises(NotFound):  # acme's positive answer is not globex's
        await route.resolve("globex", "task")


async def test_a_digest_is_asked_again_after_a_minute_and_outlives_an_outage() -> None:
    book = Book()
    route = router(book)
    assert await route.resolve("acme", f"task@{V1}") == book.prod
    book.now = 61
    book.failure = StoreUnavailable("away")
    assert await route.resolve("acme", f"task@{V1}") == book.prod
    with pytest.raises(StoreUnavailable):
        await route.resolve("acme", f"task@{V2}")
    book.now += 1  # one question a second while the store is away
    book.failure, book.prod = None, None  # deleted
    with pytest.raises(NotFound):
        await route.resolve("acme", f"task@{V1}")


async def test_a_split_alias_is_drawn_for_each_request_by_weight() -> None:
    book = Book()
    book.split = (Target(manifest(V1), 90), Target(manifest(V2), 10))
    route = router(book)
    met = []
    for step in range(100):
        book.drawn = step / 100
        met.append((await route.resolve("acme", "task")).version)  # type: ignore[union-attr]
    assert met == [V1] * 90 + [V2] * 10
    assert book.asked == 1, "drawn from one cached answer"


async def test_what_cannot_run_here_says_why() -> None:
    book = Book()
    book.prod = manifest(V1, base=OTHER)
    with pytest.raises(WrongBackbone, match="some-base"):
        await router(book).resolve("acme", "task")
    book.prod = manifest(V1, rank=32)
    with pytest.raises(AdapterUnfit, match="rank 32"):
        await router(book).resolve("acme", "task")


def test_sampling_defaults() -> None:
    sampling = resolve_sampling(SamplingWish(), 512)
    assert (sampling.temperature, sampling.max_tokens) == (1.0, 256)
    assert resolve_sampling(SamplingWish(), 64).max_tokens == 64


async def test_a_store_outage_stops_only_what_was_never_asked() -> None:
    book = Book()
    route = router(book)
    assert (await route.resolve("acme", "task")).version == V1  # type: ignore[union-attr]
    book.failure, book.now = StoreUnavailable("the store does not answer"), 100.0
    assert (await route.resolve("acme", "task")).version == V1  # type: ignore[union-attr]
    with pytest.raises(StoreUnavailable):
        await route.resolve("acme", f"task@{V2}")
    book.failure, book.prod = None, manifest(V2)
    book.now += 1
    assert (await route.resolve("acme", "task")).version == V2  # type: ignore[union-attr]


async def test_while_the_store_is_away_all_names_share_one_question_a_second() -> None:
    book = Book()
    route = router(book)
    known = ("task", f"task@{V1}")
    for name in known:
        await route.resolve("acme", name)
    book.failure, book.now, book.asked = StoreUnavailable("away"), 100.0, 0
    for _ in range(5):
        for name in known:
            assert (await route.resolve("acme", name)).version == V1  # type: ignore[union-attr]
        for unknown in (f"task@{V2}", "task:canary", "other"):
            with pytest.raises(StoreUnavailable, match="away"):
                await route.resolve("acme", unknown)
    assert book.asked == 1
    book.now += 1
    await route.resolve("acme", "task")
    assert book.asked == 2
    book.failure, book.prod = None, manifest(V2)
    book.now += 1
    with pytest.raises(NotFound):
        await route.resolve("acme", "other")
    # Whoever got the answer, it ended the outage for all.
    assert (await route.resolve("acme", "task")).version == V2  # type: ignore[union-attr]


async def test_first_questions_for_a_name_are_one_and_outlive_whoever_asked_first() -> None:
    book = Book()
    book.gate.clear()
    route = router(book)
    calls = [asyncio.create_task(route.resolve("acme", "task")) for _ in range(20)]
    await asyncio.to_thread(book.reached.wait, 20)
    calls[0].cancel()
    book.gate.set()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert {call.version for call in found[1:]} == {V1}  # type: ignore[union-attr]
    assert book.asked == 1


async def test_a_store_that_hangs_costs_a_known_name_its_patience_only_and_never_brings_an_old_target_back() -> None:
    """The alias moves while an answer from before hangs; that answer comes last and must not stay."""
    book = Book()
    route = Router(
        book, base_digest=BASE, max_lora_rank=16, clock=lambda: book.now, draw=lambda: 0.5, patience_seconds=0.01
    )
    await route.resolve("acme", "task")
    book.now = 10.0
    book.reached.clear()
    book.gate.clear()
    assert (await route.resolve("acme", "task")).version == V1, "from memory"  # type: ignore[union-attr]
    await asyncio.to_thread(book.reached.wait, 20)
    book.prod, book.now = manifest(V2), 20.0
    call = asyncio.create_task(route.resolve("acme", "task"))
    assert (await call).version == V1, "still from memory"  # type: ignore[union-attr]
    book.gate.set()  # the answer that was read at 10 arrives
    while (await route.resolve("acme", "task")).version != V2:  # type: ignore[union-attr]
        assert book.asked < 5
    for _ in range(3):
        assert (await route.resolve("acme", "task")).version == V2  # type: ignore[union-attr]


def test_an_older_answer_never_replaces_a_newer_one() -> None:
    answers = _Answers()
    question = ("acme", ModelName("task", alias="prod"))
    new, old = (_Answer(asked, asked + 1, (Target(manifest(version), 1),)) for asked, version in ((5.0, V2), (4.0, V1)))
    answers.keep(question, new)
    answers.keep(question, old)
    assert answers.get(question) is new


async def test_a_name_in_use_is_asked_for_before_it_is_too_old_and_a_request_need_not_wait() -> None:
    book = Book()
    slept, go = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        assert seconds < 1.0, "an answer lives for a second"
        slept.set()
        await go.wait()
        go.clear()

    routes = router(book)
    routes._in_use._sleep = sleep
    assert (found := await routes.find("acme", "task"))
    assert found.manifest.version == V1
    book.prod = manifest(V2)
    for now in (0.75, 1.5):
        book.now = now
        await slept.wait()
        slept.clear()
        go.set()
        await slept.wait()
        await asyncio.gather(*routes._in_use._asking.values())
    assert book.asked == 3
    book.failure = NotFound("nobody may ask now")
    book.now = 2.2
    assert (found := await routes.find("acme", "task"))
    assert found.manifest.version == V2
    assert book.asked == 3
    await routes.close()


async def test_what_only_the_service_itself_looks_at_is_not_in_use() -> None:
    routes = router(book := Book())
    await routes.look("acme", "task")
    await routes.find("acme", f"task@{V1}")
    assert routes._in_use._rounds is None
    assert book.asked == 2
