"""A recipe resolves to the seed's values, says what it replaced, and refuses what cannot work."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_service.core.errors import InvalidRecipe
from trainer_service.core.recipe import Fleet, RecipeRequest, rank_for_rows, resolve
from trainer_service.core.recipe_lint import lint

GPU = Fleet(device="cuda")
CPU = Fleet(device="cpu")


def test_defaults_are_the_seeds() -> None:
    recipe, notices = resolve(RecipeRequest(), rows=1000, fleet=GPU)
    assert (recipe.preset, recipe.rank, recipe.alpha, recipe.dropout) == ("compact", 8, 16.0, 0.05)
    assert (recipe.learning_rate, recipe.warmup_ratio, recipe.weight_decay) == (2e-4, 0.05, 0.01)
    assert (recipe.epochs, recipe.batch_rows, recipe.bits) == (3.0, 16, 4)
    assert recipe.target_modules == ("q_proj", "v_proj")
    assert recipe.gradient_checkpointing
    assert recipe.optimizer == "paged_adamw_8bit"
    assert notices == []


@pytest.mark.parametrize(("rows", "rank"), [(2, 8), (4_999, 8), (5_000, 16), (49_999, 16), (50_000, 32), (10**7, 32)])
def test_rank_follows_the_rows(rows: int, rank: int) -> None:
    assert rank_for_rows(rows) == rank
    assert resolve(RecipeRequest(), rows=rows, fleet=GPU)[0].rank == rank


def test_automatic_rank_stays_within_the_fleet() -> None:
    assert resolve(RecipeRequest(), rows=100_000, fleet=Fleet(max_rank=16))[0].rank == 16


def test_alpha_follows_a_chosen_rank() -> None:
    assert resolve(RecipeRequest(rank=4), rows=100, fleet=CPU)[0].alpha == 8.0


def test_a_cpu_says_what_it_replaces() -> None:
    recipe, notices = resolve(RecipeRequest(), rows=100, fleet=CPU)
    assert (recipe.bits, recipe.optimizer, recipe.gradient_checkpointing) == (16, "adamw", False)
    text = " ".join(notice.message for notice in notices)
    for replaced in ("paged_adamw_8bit", "4-bit", "gradient checkpointing"):
        assert replaced in text


def test_four_bits_on_request_on_a_cpu() -> None:
    recipe, notices = resolve(RecipeRequest(bits=4), rows=100, fleet=CPU)
    assert recipe.bits == 4
    assert any("slower" in notice.message for notice in notices)


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (RecipeRequest(preset="fastest"), "fastest"),
        (RecipeRequest(rank=0), "rank"),
        (RecipeRequest(rank=65), "rank"),
        (RecipeRequest(alpha=0.0), "alpha"),
        (RecipeRequest(dropout=1.0), "dropout"),
        (RecipeRequest(bits=8), "bits"),
        (RecipeRequest(epochs=0.0), "epochs"),
        (RecipeRequest(epochs=float("nan")), "epochs"),
        (RecipeRequest(max_steps=0), "max_steps"),
        (RecipeRequest(learning_rate=-1.0), "learning_rate"),
        (RecipeRequest(learning_rate=float("inf")), "learning_rate"),
        (RecipeRequest(batch_rows=0), "batch_rows"),
        (RecipeRequest(max_length=1), "max_length"),
        (RecipeRequest(eval_fraction=0.0), "eval_fraction"),
        (RecipeRequest(seed=-1), "seed"),
        (RecipeRequest(target_modules=("q proj",)), "q proj"),
    ],
)
def test_impossible_values_are_refused_by_name(request_: RecipeRequest, named: str) -> None:
    with pytest.raises(InvalidRecipe, match=named):
        resolve(request_, rows=100, fleet=CPU)


def test_one_row_cannot_be_split() -> None:
    with pytest.raises(InvalidRecipe, match="2 rows"):
        resolve(RecipeRequest(), rows=1, fleet=CPU)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (RecipeRequest(dropout=0.2), "dropout"),
        (RecipeRequest(target_modules=("k_proj", "o_proj")), "redirect attention"),
        (RecipeRequest(rank=32), "memorise"),
        (RecipeRequest(alpha=64.0), "alpha / rank"),
        (RecipeRequest(max_steps=99), "99 optimizer steps"),
    ],
)
def test_doubtful_choices_are_warned_about(request_: RecipeRequest, words: str) -> None:
    quiet = resolve(RecipeRequest(epochs=20), rows=1000, fleet=CPU)[0]
    assert lint(quiet, rows=1000) == []
    doubtful = resolve(request_.model_copy(update={"epochs": 20.0}), rows=1000, fleet=CPU)[0]
    (warning,) = lint(doubtful, rows=1000)
    assert words in warning.message


@given(
    rows=st.integers(2, 10_000),
    batch_rows=st.integers(1, 64),
    epochs=st.floats(0.01, 20),
    fraction=st.floats(0.001, 0.5),
    cap=st.one_of(st.none(), st.integers(1, 500)),
)
def test_every_recipe_has_a_step_a_training_row_and_a_held_out_row(
    rows: int, batch_rows: int, epochs: float, fraction: float, cap: int | None
) -> None:
    request = RecipeRequest(batch_rows=batch_rows, epochs=epochs, eval_fraction=fraction, max_steps=cap)
    recipe, _ = resolve(request, rows=rows, fleet=CPU)
    train, held_out = recipe.split(rows)
    assert train >= 1
    assert held_out >= 1
    assert train + held_out == rows
    steps = recipe.total_steps(train)
    assert 1 <= steps <= (cap or steps)
    if cap is None:
        assert steps - 1 <= epochs * recipe.steps_per_epoch(train) <= steps + 1e-6


LLAMA = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "embed_tokens"})


def test_a_target_that_the_backbone_lacks_is_refused_at_admission() -> None:
    fleet = Fleet(modules=LLAMA)
    assert resolve(RecipeRequest(), rows=100, fleet=fleet)[0].target_modules == ("q_proj", "v_proj")
    with pytest.raises(InvalidRecipe, match=r"c_attn.*it has .*q_proj"):
        resolve(RecipeRequest(target_modules=("c_attn",)), rows=100, fleet=fleet)


def test_a_preset_finds_fused_attention() -> None:
    recipe, _ = resolve(RecipeRequest(epochs=200), rows=100, fleet=Fleet(modules=frozenset({"qkv_proj", "o_proj"})))
    assert recipe.target_modules == ("qkv_proj",)
    assert lint(recipe, rows=100) == []


def test_rows_are_no_longer_than_the_backbone_sees() -> None:
    fleet = Fleet(max_positions=256)
    assert resolve(RecipeRequest(), rows=100, fleet=fleet)[0].max_length == 256
    with pytest.raises(InvalidRecipe, match=r"max_length = 300 .*8\.\.256"):
        resolve(RecipeRequest(max_length=300), rows=100, fleet=fleet)
