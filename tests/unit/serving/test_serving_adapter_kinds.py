"""An adapter made after the first of its kind is what vLLM's loader and merging make of it, number for number."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from serving_service.vllm_plugin import adapter_kinds, whole_file
from tests.unit.serving.slots_world import RANK
from tests.unit.serving.staging_world import PARTS, Staging, memories, misalign, same, write_adapter

RANKS = st.dictionaries(st.sampled_from(sorted(PARTS)), st.integers(1, RANK), min_size=1)
TYPES = st.sampled_from((torch.float32, torch.float16, torch.bfloat16))


@pytest.fixture(autouse=True, scope="module")
def _whole_files() -> Any:
    """vLLM's loader reads files as on a GPU, in memory of the slots' type, whichever that is."""
    from inspect import getattr_static

    from vllm.lora import lora_model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora_model, "safetensors", lora_model.safetensors)
        patch.setattr(
            lora_model.LoRAModel, "from_lora_tensors", getattr_static(lora_model.LoRAModel, "from_lora_tensors")
        )
        yield


def staging(dtype: torch.dtype = torch.float32) -> Staging:
    whole_file.install(dtype)
    return Staging(dtype)


@given(RANKS, st.sampled_from((1, 8, 24)), TYPES, TYPES, st.booleans())
def test_another_of_a_kind_is_what_the_loader_would_have_made_of_it(
    tmp_path_factory: pytest.TempPathFactory,
    ranks: dict[str, int],
    alpha: int,
    stored: torch.dtype,
    slots: torch.dtype,
    rslora: bool,
) -> None:
    work = tmp_path_factory.mktemp("kinds")
    first, second = (
        write_adapter(work / str(seed), ranks, alpha=alpha, seed=seed, stored=stored, use_rslora=rslora)
        for seed in (1, 2)
    )
    ours = staging(slots)
    made = [ours.stage(first), ours.stage(second), ours.stage(first)]
    assert ours.loads.folders == ["1"], "the loader saw the first only"
    assert [lora.id for lora in made] == [1, 2, 3]
    assert len(memories(made)) == 3
    assert same(made[0], made[2])
    assert same(made[1], staging(slots).stage(second))
    assert not same(made[0], made[1])


@pytest.mark.parametrize(
    "other",
    [
        {"alpha": 8},
        {"ranks": {"q_proj": 4, "o": 3}},
        {"ranks": {"q_proj": 3, "v_proj": 3}},
        {"stored": torch.bfloat16},
        {"use_rslora": True},
        {"alpha_pattern": {"o": 2}},
    ],
)
def test_adapters_that_differ_in_more_than_numbers_are_of_different_kinds(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    alike: dict[str, Any] = {"ranks": {"q_proj": 3, "o": 3}}
    ours = staging()
    ours.stage(write_adapter(tmp_path / "first", **alike))
    made = ours.stage(write_adapter(tmp_path / "other", **(alike | other)))
    assert ours.loads.folders == ["first", "other"]
    assert same(made, staging().stage(tmp_path / "other"))


def test_names_alone_make_another_kind(tmp_path: Path) -> None:
    """Of one length, with the same shapes and the same configuration: what is k's must not become v's."""
    config: dict[str, Any] = {"target_modules": ["k_proj", "v_proj"], "rank_pattern": {}}
    ours = staging()
    for name in ("k_proj", "v_proj"):
        made = ours.stage(write_adapter(tmp_path / name, {name: 3}, **config))
        assert [a is None for a in made.loras["qkv"].lora_a] == [True, name == "v_proj", name == "k_proj"]
    assert ours.loads.folders == ["k_proj", "v_proj"]


@pytest.mark.parametrize("extra", ["base_model.model.embed_tokens.base_layer.weight", "z.lm_head.base_layer.weight"])
def test_a_file_with_more_than_the_loader_takes_is_always_the_loaders(tmp_path: Path, extra: str) -> None:
    """PEFT saves the weights of embeddings that were resized; vLLM leaves them out."""
    ours = staging()
    for name in ("first", "second"):
        folder = write_adapter(tmp_path / name, {"o": 3})
        file = folder / "adapter_model.safetensors"
        save_file(load_file(file) | {extra: torch.ones(4)}, file)  # the first or the last in it
        made = ours.stage(folder)
    assert ours.loads.folders == ["first", "second"]
    assert same(made, staging().stage(write_adapter(tmp_path / "without", {"o": 3})))


def test_the_order_in_which_a_set_of_modules_was_written_makes_no_other_kind(tmp_path: Path) -> None:
    ours = staging()
    ours.stage(write_adapter(tmp_path / "first", {"q_proj": 3, "o": 3}))
    ours.stage(write_adapter(tmp_path / "second", {"q_proj": 3, "o": 3}, target_modules=["o", "q_proj"]))
    assert ours.loads.folders == ["first"]


def test_an_adapter_keeps_its_numbers_whatever_becomes_of_its_file(tmp_path: Path) -> None:
    ours = staging()
    folders = [write_adapter(tmp_path / str(seed), {"k_proj": 5}, seed=seed) for seed in (1, 2)]
    ours.stage(folders[0])
    made, kept = ours.stage(folders[1]), staging().stage(folders[1])
    file = folders[1] / "adapter_model.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)  # in place: what is still a map of it would change
    assert same(made, kept)


def test_what_a_first_one_is_refused_for_no_other_gets_past(tmp_path: Path) -> None:
    """A kind is learnt from one that was taken."""
    ours = staging()
    for name in ("first", "second"):
        folder = write_adapter(tmp_path / name, {"o": 3})
        tensors = load_file(folder / "adapter_model.safetensors")
        tensors["base_model.model.o.lora_A.weight"] = torch.zeros(3, 5)
        save_file(tensors, folder / "adapter_model.safetensors")
        with pytest.raises(ValueError, match="lora_a has the shape"):
            ours.stage(folder)
    assert ours.loads.folders == ["first", "second"]


@pytest.mark.parametrize(
    ("slots", "number", "first"),
    [
        (torch.float16, 1e4, False),
        (torch.bfloat16, 3e38, False),
        (torch.float32, 3e38, False),
        (torch.bfloat16, 3.4e38, True),
    ],
)
def test_numbers_that_a_slot_cannot_hold_are_refused_in_the_first_and_the_next_of_a_kind(
    tmp_path: Path, slots: torch.dtype, number: float, first: bool
) -> None:
    """Finite in the store, and infinite times alpha / r, or in a narrower type: other tenants' rows would be NaN."""
    ours = staging(slots)
    if not first:
        ours.stage(write_adapter(tmp_path / "first", {"o": 1}))
    folder = write_adapter(tmp_path / "second", {"o": 1})
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[f"base_model.model.o.lora_{'A' if first else 'B'}.weight"][0, 0] = -number
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=f"too large for {str(slots).removeprefix('torch.')}"):
        ours.stage(folder)
    assert ours.loads.folders == ["second" if first else "first"]


def test_an_adapter_is_there_even_if_nothing_could_be_learnt_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours = staging()

    def breaks(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(adapter_kinds, "_kind_of", breaks)
    folder = write_adapter(tmp_path / "first", {"o": 3})
    made = ours.stage(folder)
    monkeypatch.undo()
    assert same(made, ours.stage(folder))
    assert ours.loads.folders == ["first", "first"]
    assert "no memory" in caplog.text


def test_a_file_that_mixes_types_is_always_the_loaders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its numbers are of several pieces."""
    ours = staging()
    for name in ("first", "second"):
        folder = write_adapter(tmp_path / name, {"o": 3})
        tensors = load_file(folder / "adapter_model.safetensors")
        tensors["base_model.model.o.lora_A.weight"] = tensors["base_model.model.o.lora_A.weight"].half()
        save_file(tensors, folder / "adapter_model.safetensors")
        ours.stage(folder)
    assert ours.loads.folders == ["first", "second"]
    assert not caplog.text


def test_a_file_whose_numbers_are_not_aligned_is_always_the_loaders(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = staging()
    for name in ("first", "second"):
        folder = write_adapter(tmp_path / name, {"o": 3})
        misalign(folder / "adapter_model.safetensors")
        assert same(ours.stage(folder), staging().stage(write_adapter(tmp_path / "aligned", {"o": 3})))
    assert ours.loads.folders == ["first", "second"]
    assert not caplog.text


@pytest.mark.parametrize("wrong", ["numbers in place", "a tensor of its own"])
def test_a_kind_is_not_learnt_where_the_loader_does_more_than_put_numbers_in_places(
    tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a later vLLM might."""
    ours = staging()
    load = ours.loads._load_adapter

    def loads_otherwise(request: Any) -> Any:
        lora = load(request)
        layer = lora.loras["o"]
        if wrong == "numbers in place":
            layer.lora_a.mul_(2)
        else:
            layer.bias = torch.ones(3)
        return lora

    monkeypatch.setattr(ours.loads, "_load_adapter", loads_otherwise)
    for name in ("first", "second"):
        ours.stage(write_adapter(tmp_path / name, {"o": 3}))
    assert ours.loads.folders == ["first", "second"]


def test_only_so_many_kinds_are_kept_and_the_one_used_longest_ago_goes(tmp_path: Path) -> None:
    ours = staging()
    folders = [write_adapter(tmp_path / str(alpha), {"o": 3}, alpha=alpha) for alpha in range(adapter_kinds.MOST + 1)]
    for folder in [*folders[:-1], folders[0], folders[-1]]:
        ours.stage(folder)
    ours.loads.folders.clear()
    for folder in (*folders[2:], folders[0], folders[1]):
        ours.stage(folder)
    assert ours.loads.folders == ["1"]


@pytest.mark.parametrize("change", ["no file", "no json", "a list", "a short header"])
def test_what_is_not_an_adapter_has_no_kind(tmp_path: Path, change: str) -> None:
    folder = write_adapter(tmp_path / "adapter", {"o": 3})
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    assert adapter_kinds.key_of(folder) is not None
    match change:
        case "no file":
            file.unlink()
        case "no json":
            config.write_text("{")
        case "a list":
            config.write_text(json.dumps([1]))
        case "a short header":
            file.write_bytes(file.read_bytes()[:30])
    assert adapter_kinds.key_of(folder) is None
