"""How many adapters a step may have by default: what memory holds, never too few to share and never more than requests."""

from hypothesis import given
from hypothesis import strategies as st

from adapter_store import read_base
from graftwork.backbone import default_path
from serving_service.core.slots import slots_for

MODULES = {
    "embed_tokens": ((1000, 64),),
    "layers.0.self_attn.q_proj": ((64, 64),),
    "layers.0.mlp.down_proj": ((64, 192),),
    "lm_head": ((1000, 64),),
}
EACH = (64 + 64 + 64 + 192) * 8 * 4


def test_slots_take_what_their_budget_holds() -> None:
    assert slots_for(MODULES, names=(), rank=8, budget=10 * EACH + 1, most=32) == 10


def test_layers_that_no_adapter_may_change_take_no_memory() -> None:
    assert slots_for(MODULES, names=("q_proj",), rank=8, budget=10 * 128 * 8 * 4, most=32) == 10


@given(rank=st.integers(1, 512), budget=st.integers(1, 1 << 40), most=st.integers(4, 512))
def test_there_are_at_least_four_and_at_most_as_many_as_requests(rank: int, budget: int, most: int) -> None:
    assert 4 <= slots_for(MODULES, names=(), rank=rank, budget=budget, most=most) <= most


def test_a_backbone_of_unknown_shapes_gets_the_fewest() -> None:
    """Reckoned by the shapes that are known, its slots would take many times their budget."""
    for known in ({}, MODULES):
        modules = known | {"layers.0.mlp.up_proj": (None,)}
        assert slots_for(modules, names=(), rank=64, budget=1 << 40, most=32) == 4


def test_the_shipped_backbone_has_a_slot_for_each_request() -> None:
    modules = read_base(default_path()).modules
    assert slots_for(modules, names=(), rank=64, budget=1 << 30, most=32) == 32
