"""A request of one prompt is rendered in the turn that it is read in; of several as vLLM does."""

import asyncio
import inspect
import re

import pytest

from serving_service.engine.one_prompt import render_in_place


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> object:
    from vllm.renderers import base

    monkeypatch.setattr(base, "asyncio", asyncio)  # so that it is put back
    render_in_place()
    return base


def test_what_vllms_renderers_use_of_asyncio(base: object) -> None:
    text = inspect.getsource(base)  # type: ignore[arg-type]
    assert set(re.findall(r"\basyncio\.(\w+)", text)) == {"gather", "sleep"}
    assert text.count("asyncio.gather(") == text.count("await asyncio.gather(") > 0, "each is awaited where it is made"
    assert "return_exceptions" not in text


async def test_one_is_awaited_in_place_and_several_at_once(base: object) -> None:
    async def number(value: int) -> int:
        return value

    begun = base.asyncio.gather(number(5))  # type: ignore[attr-defined]
    with pytest.raises(StopIteration) as ended:
        begun.send(None)  # not one turn of the loop
    assert ended.value.value == [5]
    assert await base.asyncio.gather(number(1), number(2)) == [1, 2]  # type: ignore[attr-defined]
    assert await base.asyncio.gather() == []  # type: ignore[attr-defined]

    async def fails() -> None:
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        await base.asyncio.gather(fails())  # type: ignore[attr-defined]
