"""Nothing that vLLM would refuse, ignore or serve as something else passes the door."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapter_store.base import BaseInfo, read_base
from adapter_store.errors import InvalidAdapter, InvalidBase
from adapter_store.peft_check import check_folder
from tests.store_samples import CONFIG, HIDDEN, RANK, lora_tensors, make_adapter, make_base

Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseInfo:
    return read_base(make_base(tmp_path_factory.mktemp("base") / "mini"))


def test_a_sound_adapter_passes(base: BaseInfo, tmp_path: Path) -> None:
    checked = check_folder(make_adapter(tmp_path / "a"), base)
    assert (checked.rank, checked.alpha, checked.dtype) == (RANK, 8, "F32")
    assert checked.target_modules == ("q_proj", "v_proj")
    assert checked.parameters == sum(tensor.size for tensor in lora_tensors().values())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"peft_type": "LOHA"}, "only LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"trainable_token_indices": [1]}, "trainable tokens"),
        ({"some_future_setting": 1}, "does not know"),
        ({"r": 0}, "above 0"),
        ({"r": True}, "above 0"),
        ({"r": "4"}, "above 0"),
        ({"r": 8}, "adapter_config.json says 8"),
        ({"lora_alpha": 0}, "alpha"),
        ({"lora_alpha": float("nan")}, "alpha"),
        ({"rank_pattern": {"(a+)+": 4}}, "regular expressions"),
        ({"rank_pattern": {"v_proj": 2}}, "says 2"),
        ({"alpha_pattern": {"q_proj": 1, "self_attn.q_proj": 2}}, "same module"),
    ],
)
def test_settings_that_are_not_served_are_refused(
    base: BaseInfo, tmp_path: Path, settings: dict[str, object], reason: str
) -> None:
    with pytest.raises(InvalidAdapter, match=reason):
        check_folder(make_adapter(tmp_path / "a", **settings), base)


def broken(change: str) -> dict[str, np.ndarray]:
    tensors = lora_tensors()
    match change:
        case "nan" | "inf":
            tensors[f"{Q}.lora_A.weight"][1, 2] = float(change)
        case "no effect":
            tensors |= {name: np.zeros_like(value) for name, value in tensors.items() if "lora_B" in name}
        case "negative zero":
            tensors |= {name: np.full_like(value, -0.0) for name, value in tensors.items() if "lora_B" in name}
        case "half a pair":
            del tensors[f"{Q}.lora_B.weight"]
        case "wrong out":
            tensors[f"{Q}.lora_B.weight"] = np.ones((HIDDEN * 2, RANK), np.float32)
        case "wrong in":
            tensors[f"{Q}.lora_A.weight"] = np.ones((RANK, HIDDEN * 2), np.float32)
        case "other module":
            tensors["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"] = np.ones((RANK, HIDDEN), np.float32)
            tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"] = np.ones((64, RANK), np.float32)
        case "layer too many":
            tensors[f"{Q.replace('0', '2')}.lora_A.weight"] = np.ones((RANK, HIDDEN), np.float32)
            tensors[f"{Q.replace('0', '2')}.lora_B.weight"] = np.ones((HIDDEN, RANK), np.float32)
        case "embedding":
            tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = np.ones((RANK, HIDDEN), np.float32)
        case "dora vector":
            tensors[f"{Q}.lora_magnitude_vector"] = np.ones(HIDDEN, np.float32)
        case "mixed dtypes":
            tensors[f"{Q}.lora_A.weight"] = tensors[f"{Q}.lora_A.weight"].astype(np.float16)
        case "doubles":
            tensors = {name: value.astype(np.float64) for name, value in tensors.items()}
        case "nothing":
            tensors = {}
    return tensors


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("nan", "NaN"),
        ("inf", "NaN or infinity"),
        ("no effect", "no effect"),
        ("negative zero", "no effect"),
        ("half a pair", "only"),
        ("wrong out", "another backbone"),
        ("wrong in", "another backbone"),
        ("other module", "no linear module"),
        ("layer too many", "no linear module"),
        ("embedding", "linear layers"),
        ("dora vector", "linear layers"),
        ("mixed dtypes", "F16, F32"),
        ("doubles", "F64"),
        ("nothing", "no tensors"),
    ],
)
def test_broken_tensors_are_refused(base: BaseInfo, tmp_path: Path, change: str, reason: str) -> None:
    with pytest.raises(InvalidAdapter, match=reason):
        check_folder(make_adapter(tmp_path / "a", tensors=broken(change)), base)


def save_half(file: Path, bits: int, dtype: str) -> None:
    """Writes the sample's tensors with one 16-bit pattern in one place; numpy knows no bf16, so by hand."""
    header, data = dict[str, object](), b""
    for name, value in lora_tensors().items():
        pattern = np.full(value.shape, 0x3C00, np.uint16)
        if name == f"{Q}.lora_A.weight":
            pattern[0, 0] = bits
        header[name] = {"dtype": dtype, "shape": value.shape, "data_offsets": (len(data), len(data) + pattern.nbytes)}
        data += pattern.tobytes()
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    ("dtype", "bits", "finite"),
    [
        ("BF16", 0x7F80, False),  # infinity
        ("BF16", 0xFF80, False),  # minus infinity
        ("BF16", 0x7FC1, False),  # NaN
        ("BF16", 0xFF7F, True),  # the lowest number
        ("BF16", 0x7C00, True),  # a number here, infinity in F16
        ("F16", 0x7C00, False),
        ("F16", 0xFE01, False),
        ("F16", 0x7BFF, True),
    ],
)
def test_half_precision_is_read_by_its_own_bits(
    base: BaseInfo, tmp_path: Path, dtype: str, bits: int, finite: bool
) -> None:
    folder = make_adapter(tmp_path / "a")
    save_half(folder / "adapter_model.safetensors", bits, dtype)
    if finite:
        assert check_folder(folder, base).dtype == dtype
    else:
        with pytest.raises(InvalidAdapter, match="NaN or infinity"):
            check_folder(folder, base)


def test_rank_above_the_fleets_maximum_is_refused(base: BaseInfo, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", tensors=lora_tensors(rank=8), r=8)
    assert check_folder(folder, base, max_rank=8).rank == 8
    with pytest.raises(InvalidAdapter, match="maximum of 7"):
        check_folder(folder, base, max_rank=7)


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "x.pkl"])
def test_pickles_are_refused_unread(base: BaseInfo, tmp_path: Path, name: str) -> None:
    folder = make_adapter(tmp_path / "a")
    (folder / name).write_bytes(pickle.dumps({}))
    with pytest.raises(InvalidAdapter, match="pickled"):
        check_folder(folder, base)


def test_a_pickle_under_the_weights_name_is_refused(base: BaseInfo, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(pickle.dumps(list(range(100))))
    with pytest.raises(InvalidAdapter, match="not a sound safetensors file"):
        check_folder(folder, base)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("a\n{% for x in %}", "in line 2"),
        ("{{ messages", "no chat template"),
        ("{% unknown %}", "unknown tag"),
        ("{% generation %}", "no chat template"),
        ("{{ " + "(" * 100_000 + " }}", "chat template|nested"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused(base: BaseInfo, tmp_path: Path, template: str, reason: str) -> None:
    folder = make_adapter(tmp_path / "a")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(InvalidAdapter, match=reason):
        check_folder(folder, base)


def test_templates_may_use_what_transformers_has(base: BaseInfo, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    (folder / "chat_template.jinja").write_text(
        "{%- for m in messages %}{% if loop.last %}{% break %}{% endif %}"
        "{% generation %}{{ m['content'] | tojson(indent=2) | made_up }}{% endgeneration %}"
        "{{ raise_exception('x') }}{{ strftime_now('%d') }}{% endfor -%}"
    )
    check_folder(folder, base)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "chat_template.jinja"])
def test_every_file_is_required(base: BaseInfo, tmp_path: Path, name: str) -> None:
    folder = make_adapter(tmp_path / "a")
    (folder / name).unlink()
    with pytest.raises(InvalidAdapter, match=name):
        check_folder(folder, base)


def test_a_quantised_base_is_checked_by_its_config(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    packed = {
        f"model.layers.{layer}.self_attn.{module}.weight": np.zeros((512, 1), np.uint8)
        for layer in range(2)
        for module in ("q_proj", "v_proj")
    }
    save_file(packed, folder / "model.safetensors")
    base = read_base(folder)
    check_folder(make_adapter(tmp_path / "a"), base)
    with pytest.raises(InvalidAdapter, match="another backbone"):
        check_folder(make_adapter(tmp_path / "b", tensors=broken("wrong out")), base)


def test_the_bases_digest_is_of_names_and_bytes(tmp_path: Path) -> None:
    one, same = read_base(make_base(tmp_path / "a")), read_base(make_base(tmp_path / "b"))
    assert one.digest == same.digest
    assert read_base(make_base(tmp_path / "c", seed=1)).digest != one.digest
    (tmp_path / "b/model.safetensors").rename(tmp_path / "b/model-1.safetensors")
    assert read_base(tmp_path / "b").digest != one.digest


def test_a_changed_file_is_hashed_again(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "a")
    before = read_base(folder).digest
    save_file({"model.norm.weight": np.ones(4, np.float32)}, folder / "model.safetensors")
    assert read_base(folder).digest != before


def test_a_folder_that_is_no_backbone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBase, match=r"config\.json"):
        read_base(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InvalidBase, match="safetensors"):
        read_base(tmp_path)
