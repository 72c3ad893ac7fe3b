"""A first token is handled before the other tokens of its step."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving_service.engine.output_order import by_first_token, first_tokens_first


@dataclass(frozen=True)
class _Output:
    request_id: str


def _states(waiting: dict[str, bool]) -> dict[str, Any]:
    return {name: SimpleNamespace(is_prefilling=first) for name, first in waiting.items()}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_newcomers_come_first_and_everybody_keeps_their_order(requests: list[tuple[bool, bool]]) -> None:
    outputs = [_Output(str(number)) for number in range(len(requests))]
    waiting = {str(number): first for number, (first, known) in enumerate(requests) if known}

    told = by_first_token(outputs, _states(waiting))

    newcomers = [one for one in outputs if waiting.get(one.request_id)]
    assert told == [*newcomers, *(one for one in outputs if one not in newcomers)]


async def test_what_the_engine_is_asked_for_comes_in_that_order() -> None:
    async def take() -> Any:
        return SimpleNamespace(outputs=[_Output("old"), _Output("left"), _Output("new")], timestamp=1.0)

    llm: Any = SimpleNamespace(
        engine_core=SimpleNamespace(get_output_async=take),
        output_processor=SimpleNamespace(request_states=_states({"old": False, "new": True})),
    )
    first_tokens_first(llm)

    taken = await llm.engine_core.get_output_async()

    assert [one.request_id for one in taken.outputs] == ["new", "old", "left"]
    assert taken.timestamp == 1.0
