"""An adapter's file read in one piece gives vLLM's loader the same names and numbers as its own reader, in memory of their own."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from serving_service.vllm_plugin.whole_file import WholeFile
from tests.unit.serving.staging_world import misalign

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NAMES = st.text("abc.", min_size=1, max_size=6)
SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=3)


@st.composite
def files(draw: Any) -> dict[str, torch.Tensor]:
    kinds = draw(st.dictionaries(NAMES, st.tuples(SHAPES, st.sampled_from(DTYPES)), max_size=8))
    torch.manual_seed(draw(st.integers(0, 99)))
    return {name: torch.randn(shape).to(dtype) for name, (shape, dtype) in kinds.items()}


@given(files(), st.sampled_from(DTYPES))
def test_names_and_numbers_are_those_of_safetensors_whatever_types_a_file_mixes(
    tensors: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter_model.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})
        with safe_open(path, framework="pt") as theirs:
            expected = {name: theirs.get_tensor(name).to(dtype, copy=True) for name in theirs.keys()}  # noqa: SIM118  # no dict
        with WholeFile(path, dtype) as made:
            found = {name: made.get_tensor(name) for name in made.keys()}  # noqa: SIM118
        path.write_bytes(b"\xff" * path.stat().st_size)  # in place: what is still a map of it would change
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype is dtype
        assert torch.equal(tensor, expected[name]), name


def test_a_type_that_adapters_do_not_have_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.float64)}, tmp_path / "f")
    with pytest.raises(ValueError, match="of type F64"):
        WholeFile(tmp_path / "f", torch.float32)


def test_numbers_that_do_not_begin_where_their_type_would_are_read(tmp_path: Path) -> None:
    """What others write has headers of any length."""
    save_file({"a": torch.arange(3.0)}, tmp_path / "f")
    misalign(tmp_path / "f")
    with WholeFile(tmp_path / "f", torch.bfloat16) as made:
        assert made.get_tensor("a").tolist() == [0, 1, 2]
