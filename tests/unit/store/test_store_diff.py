"""Distances of weights are those of the matrices that the adapters add, computed without making them."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from adapter_store import AdapterStore, Provenance, VersionManifest, open_store, read_base
from adapter_store.diff import diff_versions
from tests.store_samples import lora_tensors, make_adapter, make_base


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    made = open_store(f"file://{tmp_path}/store")
    made.tenants.create("acme")
    return made


def publish(store: AdapterStore, folder: Path, seed: int, rank: int = 4, **settings: object) -> VersionManifest:
    base = folder.parent / "base"
    if not base.exists():
        make_base(base)
    make_adapter(folder, tensors=lora_tensors(seed, rank), r=rank, **settings)
    made = Provenance(made_by=f"job {seed}", recipe={"rank": rank, "same": 1}, metrics={"eval_loss": float(seed)})
    return store.versions.publish("acme", "greeter", folder, base=read_base(base), made=made)


def update(folder: Path, module: str, scale: float) -> np.ndarray:
    tensors = load_file(folder / "adapter_model.safetensors")
    name = f"base_model.model.{module}"
    return scale * tensors[f"{name}.lora_B.weight"].astype(np.float64) @ tensors[f"{name}.lora_A.weight"]


def test_norms_are_those_of_the_full_matrices(store: AdapterStore, tmp_path: Path) -> None:
    one = publish(store, tmp_path / "a", 1)
    other = publish(store, tmp_path / "b", 2, rank=2, use_rslora=True, alpha_pattern={"layers.0.self_attn.q_proj": 3})
    _, modules = diff_versions(store, one, other, tmp_path / "work")
    assert len(modules) == 4
    for found in modules:
        first = update(tmp_path / "a", found.module, 8 / 4)
        alpha = 3 if found.module == "model.layers.0.self_attn.q_proj" else 8
        second = update(tmp_path / "b", found.module, alpha / np.sqrt(2))
        assert found.norm_one == pytest.approx(np.linalg.norm(first))
        assert found.norm_other == pytest.approx(np.linalg.norm(second))
        assert found.norm_difference == pytest.approx(np.linalg.norm(first - second))


def test_a_version_is_at_no_distance_from_itself(store: AdapterStore, tmp_path: Path) -> None:
    one = publish(store, tmp_path / "a", 1)
    values, modules = diff_versions(store, one, one, tmp_path / "work")
    assert values == []
    assert all(found.norm_difference < 1e-12 * found.norm_one for found in modules)


def test_only_values_that_differ_are_named(store: AdapterStore, tmp_path: Path) -> None:
    one, other = publish(store, tmp_path / "a", 1), publish(store, tmp_path / "b", 2, rank=2)
    values, _ = diff_versions(store, one, other, tmp_path / "work")
    assert {(value.section, value.field): (value.one, value.other) for value in values} == {
        ("config", "r"): ("4", "2"),
        ("recipe", "rank"): ("4", "2"),
        ("data", "made_by"): ('"job 1"', '"job 2"'),
        ("metrics", "eval_loss"): ("1.0", "2.0"),
    }
