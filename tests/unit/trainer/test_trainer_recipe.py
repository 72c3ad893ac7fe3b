"""A recipe resolves to the seed's values, says what it replaced, and refuses what cannot work."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_service.core.errors import InvalidRecipe
from trainer_service.core.recipe import Recipe, Source, explain, resolve
from trainer_service.core.recipe_advice import advise
from trainer_service.core.recipe_lint import lint
from trainer_service.core.recipe_values import PRESETS, TARGET_SETS, Fleet, RecipeRequest, rank_for_rows

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


@pytest.mark.parametrize(("rows", "rank"), [(2, 8), (4_999, 8), (5_000, 16), (50_000, 16), (50_001, 32), (10**7, 32)])
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
        (RecipeRequest(target_modules=("all-linear", "q_proj")), "name it alone"),
        (RecipeRequest(preset="full"), "full fine-tuning is not offered"),
        (RecipeRequest(compute_dtype="int8"), "compute_dtype"),
        (RecipeRequest(compute_dtype="bf16"), "not used on a CPU"),
        (RecipeRequest(optimizer="sgd"), "optimizer"),
        (RecipeRequest(patience=0), "patience"),
        (RecipeRequest(patience=2, epochs=3), "patience = 2 is not used"),
    ],
)
def test_impossible_values_are_refused_by_name(request_: RecipeRequest, named: str) -> None:
    with pytest.raises(InvalidRecipe, match=named):
        resolve(request_, rows=100, fleet=CPU)


def test_one_row_cannot_be_split() -> None:
    with pytest.raises(InvalidRecipe, match="2 rows"):
        resolve(RecipeRequest(), rows=1, fleet=CPU)


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
    fleet = Fleet(modules=frozenset({"qkv_proj", "o_proj"}))
    recipe, _ = resolve(RecipeRequest(epochs=200), rows=100, fleet=fleet)
    assert recipe.target_modules == ("qkv_proj",)
    assert lint(recipe, rows=100, fleet=fleet) == []
    recipe, _ = resolve(RecipeRequest(target_modules=("attention",)), rows=100, fleet=fleet)
    assert recipe.target_modules == ("qkv_proj", "o_proj")


def test_rows_are_no_longer_than_the_backbone_sees() -> None:
    fleet = Fleet(max_positions=256)
    assert resolve(RecipeRequest(), rows=100, fleet=fleet)[0].max_length == 256
    with pytest.raises(InvalidRecipe, match=r"max_length = 300 .*8\.\.256"):
        resolve(RecipeRequest(max_length=300), rows=100, fleet=fleet)


@pytest.mark.parametrize("name", TARGET_SETS)
def test_sets_of_targets_have_names(name: str) -> None:
    recipe, _ = resolve(RecipeRequest(target_modules=(name,)), rows=100, fleet=GPU)
    assert recipe.target_modules == TARGET_SETS[name]


def test_rslora_keeps_the_seeds_scale() -> None:
    for rank in (8, 16, 64):
        recipe, _ = resolve(RecipeRequest(rank=rank, use_rslora=True), rows=100, fleet=GPU)
        assert recipe.scale == pytest.approx(2, rel=0.1)
        assert resolve(RecipeRequest(rank=rank), rows=100, fleet=GPU)[0].scale == 2


def test_the_dtype_is_what_the_gpu_has() -> None:
    assert resolve(RecipeRequest(), rows=100, fleet=GPU)[0].compute_dtype == "bf16"
    assert resolve(RecipeRequest(), rows=100, fleet=Fleet(device="cuda", bf16=False))[0].compute_dtype == "fp16"
    assert resolve(RecipeRequest(), rows=100, fleet=CPU)[0].compute_dtype == "fp32"


def sources(request: RecipeRequest, rows: int, fleet: Fleet) -> dict[str, Source]:
    return {it.name: it.source for it in explain(request, rows=rows, fleet=fleet).settings}


def test_every_value_says_what_set_it() -> None:
    said = sources(RecipeRequest(preset="quality", dropout=0.1), 8000, CPU)
    assert set(said) == set(Recipe.model_fields)
    assert said["dropout"] is said["preset"] is Source.ASKED
    assert said["target_modules"] is said["learning_rate"] is Source.PRESET
    assert said["rank"] is said["alpha"] is Source.AUTOMATIC
    assert said["weight_decay"] is Source.DEFAULT
    assert said["bits"] is said["optimizer"] is said["gradient_checkpointing"] is Source.DEVICE
    rank = next(it for it in explain(RecipeRequest(), rows=8000, fleet=GPU).settings if it.name == "rank")
    assert (rank.value, "8,000 rows" in rank.reason) == ("16", True)
    assert sources(RecipeRequest(), 100, Fleet(base_parameters=10**6))["preset"] is Source.AUTOMATIC


FLEETS = st.builds(
    Fleet,
    device=st.sampled_from(["cpu", "cuda"]),
    bf16=st.booleans(),
    memory_bytes=st.none() | st.integers(10**9, 10**12),
    max_rank=st.integers(1, 64),
    base_parameters=st.none() | st.integers(10**6, 10**10),
    max_positions=st.none() | st.integers(64, 10**5),
)
REQUESTS = st.builds(
    RecipeRequest,
    preset=st.sampled_from(["", *PRESETS]),
    alpha=st.none() | st.floats(0.1, 4096),
    dropout=st.none() | st.floats(0, 0.9),
    target_modules=st.sampled_from(
        [(), ("attention",), ("all-linear",), ("q_proj", "k_proj"), ("attention-qv", "o_proj")]
    ),
    bits=st.sampled_from([None, 4, 16]),
    epochs=st.none() | st.floats(0.1, 50),
    max_steps=st.none() | st.integers(1, 1000),
    learning_rate=st.none() | st.floats(1e-6, 1),
    max_length=st.none() | st.integers(8, 64),
    gradient_checkpointing=st.none() | st.booleans(),
    use_rslora=st.none() | st.booleans(),
    optimizer=st.sampled_from([None, "adamw", "paged_adamw_8bit"]),
)


@given(request_=REQUESTS, rows=st.integers(2, 10**6), fleet=FLEETS)
def test_resolving_is_pure_and_asking_for_the_result_gives_it_again(
    request_: RecipeRequest, rows: int, fleet: Fleet
) -> None:
    first = explain(request_, rows=rows, fleet=fleet)
    assert explain(request_, rows=rows, fleet=fleet) == first
    again = RecipeRequest(**first.recipe.model_dump())
    assert resolve(again, rows=rows, fleet=fleet)[0] == first.recipe
    # Linting and advising never fail on what resolves.
    lint(first.recipe, rows=rows, fleet=fleet)
    assert len(advise(first.recipe, rows=rows, fleet=fleet)) == 5


SMALL_CARD = Fleet(device="cuda", memory_bytes=12 * 10**9)
SERVED = {"base_digest": "ab" * 32, "template_digest": "cd" * 32}
QUIET = {"epochs": 20.0}

LINTS: list[tuple[str, str, dict[str, object], Fleet, dict[str, object], Fleet]] = [
    # code, level, what triggers it (request and fleet), the nearest that does not
    ("no_attention", "warning", {"target_modules": ("k_proj", "o_proj")}, CPU, {"target_modules": ("attention",)}, CPU),
    ("no_attention", "warning", {"target_modules": ("q_proj",)}, CPU, {"target_modules": ("q_proj", "v_proj")}, CPU),
    ("dropout", "warning", {"dropout": 0.11}, CPU, {"dropout": 0.1}, CPU),
    ("rank", "warning", {"rank": 9}, CPU, {"rank": 8}, CPU),
    ("alpha", "warning", {"alpha": 33.0}, CPU, {"alpha": 32.0}, CPU),
    ("alpha", "warning", {"alpha": 3.9}, CPU, {"alpha": 4.0}, CPU),
    ("alpha", "warning", {"alpha": 12.0, "use_rslora": True}, CPU, {"alpha": 11.0, "use_rslora": True}, CPU),
    ("steps", "warning", {"max_steps": 99}, CPU, {"max_steps": 100}, CPU),
    ("max_steps", "warning", {"max_steps": 1141}, CPU, {"max_steps": 1140}, CPU),
    ("compute_dtype", "error", {"compute_dtype": "fp32"}, GPU, {"compute_dtype": "fp16"}, GPU),
    ("compute_dtype", "error", {"compute_dtype": "fp32"}, GPU, {"compute_dtype": "fp32", "bits": 16}, GPU),
    ("no_bf16", "error", {"compute_dtype": "bf16"}, Fleet(device="cuda", bf16=False), {"compute_dtype": "bf16"}, GPU),
    ("checkpointing", "warning", {"gradient_checkpointing": False}, SMALL_CARD, {}, SMALL_CARD),
    (
        "checkpointing",
        "warning",
        {"gradient_checkpointing": False},
        SMALL_CARD,
        {"gradient_checkpointing": False},
        Fleet(device="cuda", memory_bytes=80 * 10**9),
    ),
    ("base", "error", {}, Fleet(**SERVED, serves_base="ff"), {}, Fleet(**SERVED, serves_base="abab")),
    ("template", "warning", {}, Fleet(**SERVED, serves_template="ff"), {}, Fleet(**SERVED, serves_template="cdcd")),
]


@pytest.mark.parametrize(("code", "level", "bad", "there", "good", "here"), LINTS)
def test_each_lint_is_triggered_by_what_it_is_about_and_by_nothing_else(
    code: str, level: str, bad: dict[str, object], there: Fleet, good: dict[str, object], here: Fleet
) -> None:
    doubtful, _ = resolve(RecipeRequest(**(QUIET | bad)), rows=1000, fleet=there)
    (found,) = lint(doubtful, rows=1000, fleet=there)
    assert (found.code, found.level) == (code, level)
    assert found.message
    assert found.fix
    quiet, _ = resolve(RecipeRequest(**(QUIET | good)), rows=1000, fleet=here)
    assert lint(quiet, rows=1000, fleet=here) == []


def test_every_lint_has_its_case() -> None:
    import inspect

    from trainer_service.core import recipe_lint

    written = set(re.findall(r'(?:_warning\(|_finding\(Level\.\w+, )"(\w+)"', inspect.getsource(recipe_lint)))
    assert written == {case[0] for case in LINTS}


@pytest.mark.parametrize(
    ("rows", "request_", "applies", "followed"),
    [
        (1000, RecipeRequest(), "QLoRA, rank 8, NF4", True),
        (1000, RecipeRequest(preset="lora"), "QLoRA, rank 8, NF4", False),
        (8000, RecipeRequest(), "LoRA on a 16-bit base", False),
        (8000, RecipeRequest(preset="lora"), "LoRA on a 16-bit base", True),
        (200_000, RecipeRequest(), "full fine-tuning", False),
    ],
)
def test_the_decision_matrix_says_what_suits_the_size(
    rows: int, request_: RecipeRequest, applies: str, followed: bool
) -> None:
    matrix = advise(resolve(request_, rows=rows, fleet=GPU)[0], rows=rows, fleet=GPU)
    by_size, serving = matrix[:3], matrix[3:]
    (found,) = [it for it in by_size if it.applies]
    assert (found.approach, found.followed) == (applies, followed)
    assert all(it.applies for it in serving)
    assert all(it.why and it.how for it in matrix)
