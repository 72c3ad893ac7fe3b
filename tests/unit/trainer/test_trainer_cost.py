"""Estimates: against PyTorch's own figures for an 8B backbone, against the shipped adapter's size, and how they move."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_store.base import read_base
from graftwork.backbone import default_path
from trainer_service.core.architecture import Architecture, Linear, architecture
from trainer_service.core.calibration import GUESS, Calibrations, Speed
from trainer_service.core.cost_model import Pass, adapter_bytes, memory, trainable
from trainer_service.core.estimate import FITS, Estimate, estimate, unseen
from trainer_service.core.inspection import Figures
from trainer_service.core.recipe import Fleet, Recipe, RecipeRequest, resolve

H, INNER, KV, WORDS, LAYERS = 4096, 14336, 1024, 128256, 32
SHAPES = {
    "self_attn.q_proj": (H, H),
    "self_attn.k_proj": (KV, H),
    "self_attn.v_proj": (KV, H),
    "self_attn.o_proj": (H, H),
    "mlp.gate_proj": (INNER, H),
    "mlp.up_proj": (INNER, H),
    "mlp.down_proj": (H, INNER),
}
LLAMA_8B = Architecture(
    hidden=H,
    layers=LAYERS,
    linears=tuple(Linear(f"layers.{at}.{name}", *shape) for at in range(LAYERS) for name, shape in SHAPES.items()),
    embedding=2 * WORDS * H,
    vocabulary=WORDS,
)
SPEED = Speed(flops_per_second=150e12, measured=False)


def recipe(fleet: Fleet | None = None, rows: int = 8000, **asked: object) -> Recipe:
    return resolve(RecipeRequest(**asked), rows=rows, fleet=fleet or Fleet(device="cuda"))[0]


@pytest.mark.parametrize(
    ("targets", "bits", "checkpointing", "measured"),
    [
        ("attention-qv", 16, True, 19.9),
        ("all-linear", 16, True, 20.4),
        ("attention-qv", 4, True, 9.6),
        ("all-linear", 4, True, 10.0),
        ("all-linear", 16, False, 34.1),
    ],
)
def test_memory_is_what_pytorch_measured(targets: str, bits: int, checkpointing: bool, measured: float) -> None:
    """Llama-3.1-8B shapes, 4 rows of 512 tokens, PEFT's own layers and loss (max_memory_allocated on an H200).

    Those keep what our engine does not: the logits whole (12.2 bytes each: bf16, fp32, their logarithm, the gradient),
    all positions being supervised, and a bf16 copy of every adapted module's input.
    """
    tokens = 2048
    asked = recipe(
        rank=16, target_modules=(targets,), bits=bits, gradient_checkpointing=checkpointing, optimizer="adamw"
    )
    ours = memory(LLAMA_8B, asked, "cuda", Pass(tokens, tokens))
    stock = ours.weights + ours.adapter + ours.activations + 12.2 * tokens * WORDS
    if not checkpointing:
        # Our formula has the norms' outputs, which those copies are of, and the gated product already.
        inputs = sum(it.width for it in LLAMA_8B.targets(asked.target_modules))
        stock += 2 * tokens * (inputs - LAYERS * (2 * H + INNER))
    assert stock / 1e9 == pytest.approx(measured, rel=0.03)
    assert ours.peak < stock + ours.overhead


def test_shapes_are_read_from_a_backbone() -> None:
    base = read_base(default_path())
    shape = architecture(base)
    assert shape is not None
    assert (shape.hidden, shape.layers, shape.vocabulary) == (256, 6, 102)
    assert shape.linear_parameters + shape.embedding == base.parameters
    assert {it.name for it in shape.targets(("q_proj", "self_attn.v_proj"))} == {"q_proj", "v_proj"}
    assert len(shape.targets(("all-linear",))) == 42


def test_the_adapter_is_as_large_as_predicted(miniature: Path, tmp_path: Path) -> None:
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    from trainer_service.engine.backbone import Grafted, load_backbone, load_tokenizer

    shape = architecture(read_base(miniature))
    assert shape is not None
    for targets in ("attention-qv", "all-linear"):
        asked = recipe(Fleet(), rank=4, target_modules=(targets,))
        backbone = load_backbone(miniature, load_tokenizer(miniature), bits=16, device=torch.device("cpu"))
        model = Grafted(backbone, asked)
        assert sum(it.numel() for it in model.parameters) == trainable(shape, asked)
        state = get_peft_model_state_dict(model.model, save_embedding_layers=False)
        save_file({name: it.contiguous() for name, it in state.items()}, tmp_path / "adapter")
        assert (tmp_path / "adapter").stat().st_size == pytest.approx(adapter_bytes(shape, asked), rel=0.05)


def figures(rows: int = 8000, length: int = 100, **more: object) -> Figures:
    return Figures(
        rows=rows,
        sampled_rows=rows,
        max_length=512,
        tokens=rows * length,
        supervised_tokens=rows * length // 4,
        squared_tokens=rows * length**2,
        longest=length,
        median=length,
        percentile_95=length,
        cut_rows=0,
        **more,
    )


def predict(fleet: Fleet, data: Figures | None = None, **asked: object) -> Estimate:
    made = recipe(fleet, **asked)
    return estimate(LLAMA_8B, made, data or unseen(8000, made), fleet, SPEED)


def test_tokens_steps_and_time_add_up() -> None:
    fleet = Fleet(device="cuda")
    whole = predict(fleet, figures())
    assert (whole.train_rows, whole.held_out_rows, whole.steps) == (7200, 800, 1350)
    assert whole.tokens == 3 * 7200 * 100
    assert whole.evaluations == 4
    assert whole.seconds == pytest.approx(whole.seconds_of(1000, 3) + whole.seconds_of(350, 1))
    half = predict(fleet, figures(), max_steps=675)
    assert half.tokens == whole.tokens // 2
    assert half.evaluations == 3  # step 0, one whole epoch, and the end
    plain = predict(fleet, figures(), gradient_checkpointing=False)
    assert 1.3 < whole.flops_per_step / plain.flops_per_step < 1.6


def test_what_is_predicted_is_the_rate_that_was_measured() -> None:
    """7,644 tokens a second at bf16 with checkpointing on an H200: about 6 operations a parameter and token."""
    asked = recipe(target_modules=("attention-qv",), bits=16, rank=16)
    made = estimate(LLAMA_8B, asked, figures(length=512), Fleet(device="cuda"), SPEED)
    per_token = made.flops_per_step / (made.tokens / made.steps)
    assert per_token == pytest.approx(6 * LLAMA_8B.linear_parameters, rel=0.1)


@given(
    gigabytes=st.integers(4, 200),
    bits=st.sampled_from([4, 16]),
    checkpointing=st.booleans(),
    length=st.integers(64, 4096),
)
def test_a_remedy_that_is_named_makes_it_fit(gigabytes: int, bits: int, checkpointing: bool, length: int) -> None:
    fleet = Fleet(device="cuda", memory_bytes=gigabytes * 10**9)
    asked = {"bits": bits, "gradient_checkpointing": checkpointing, "max_length": length}
    made = predict(fleet, **asked)
    assert made.fits == (made.memory.peak <= FITS * gigabytes * 10**9)
    assert bool(made.remedies) != made.fits
    for remedy in made.remedies:
        if remedy.startswith("a device with"):
            bigger = math.ceil(float(remedy.split()[3]) * 1.01) * 10**9
            least = {"bits": 4, "gradient_checkpointing": True, "max_length": 64}
            assert predict(Fleet(device="cuda", memory_bytes=bigger), **least).fits
            continue
        changed = dict(asked)
        for change in remedy.split(" and "):
            if change == "gradient_checkpointing on":
                changed["gradient_checkpointing"] = True
            else:
                name, _, value = change.partition(" = ")
                changed[name] = int(value)
        assert predict(fleet, **changed).fits, remedy


def test_passes_shrink_before_a_job_is_refused() -> None:
    roomy = predict(Fleet(device="cuda", memory_bytes=80 * 10**9))
    tight = predict(Fleet(device="cuda", memory_bytes=10 * 10**9))
    assert roomy.micro_batch_tokens == 8192
    assert tight.fits
    assert tight.micro_batch_tokens < 8192


def test_nothing_is_refused_where_the_memory_is_not_known() -> None:
    assert predict(Fleet(device="cuda"), max_length=100_000).fits


KEY = {"device": "cpu", "device_name": "a", "threads": 2, "base": "b", "bits": 16}


def test_a_measured_speed_replaces_the_guess_for_its_own_device_base_and_bits(tmp_path: Path) -> None:
    kept = Calibrations(tmp_path / "c")
    assert kept.speed(**KEY) == Speed(flops_per_second=2 * GUESS["cpu", 16], measured=False)
    kept.record(40e9, 10.0, **KEY)
    assert kept.speed(**KEY) == Speed(flops_per_second=4e9, measured=True)
    kept.record(80e9, 10.0, **KEY)
    assert kept.speed(**KEY).flops_per_second == 6e9
    for change in ({"device_name": "z"}, {"threads": 3}, {"base": "z"}, {"bits": 4}):
        assert not kept.speed(**(KEY | change)).measured
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".json"}


def test_a_training_too_short_to_mean_anything_or_a_broken_file_leaves_the_guess(tmp_path: Path) -> None:
    kept = Calibrations(tmp_path)
    kept.record(1e9, 0.5, **KEY)
    assert not kept.speed(**KEY).measured
    kept.record(40e9, 10.0, **KEY)
    (file,) = tmp_path.iterdir()
    file.write_text('{"flops_per_second": 0}')
    assert not kept.speed(**KEY).measured
