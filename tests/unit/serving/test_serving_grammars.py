"""Constraints are tried out where they can be killed: what cannot be followed, or not in time, is refused and stops nobody."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from graftwork.errors import ErrorCode
from serving_service.engine.grammars import Grammars
from serving_service.engine.protocol import ParametersRefused

pytest.importorskip("xgrammar")


class _Small(Grammars):
    """A tokenizer of one token a character."""

    def _tokenizer_info(self) -> str:
        import xgrammar

        vocabulary = ["<|end|>", *map(chr, range(32, 127))]
        return str(xgrammar.TokenizerInfo(vocabulary, xgrammar.VocabType.RAW, stop_token_ids=[0]).serialize_json())


@pytest.fixture
async def grammars() -> AsyncIterator[Grammars]:
    made = _Small(None, 96, seconds=0.5)
    yield made
    await made.close()


def params(**given: Any) -> SimpleNamespace:
    names = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
    return SimpleNamespace(**{name: given.get(name) for name in names})


def wide(depth: int) -> dict[str, object]:
    """Every level names all below it three times."""
    schema: dict[str, object] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {f"k{number}": schema for number in range(3)}}
    return schema


@pytest.mark.slow
async def test_good_ones_pass_and_bad_ones_are_refused_one_after_the_other(grammars: Grammars) -> None:
    good = [params(json='{"type": "object"}'), params(regex="[a-z]+"), params(json_object=True)]
    for one in good:
        await grammars.check(one)
    for bad in (params(regex="(["), params(json='{"type": "nonsense"}'), params(json=json.dumps(wide(9)))):
        with pytest.raises(ParametersRefused) as refused:
            await grammars.check(bad)
        assert refused.value.code is ErrorCode.INVALID
        for one in good:  # the process lives on
            await grammars.check(one)
    assert "0.5 s" in str(refused.value)
