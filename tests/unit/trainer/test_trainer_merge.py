"""Merged weights are base plus update, rounded once; every other byte is the base's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from adapter_store import Provenance, open_store, read_base
from graftwork.template import DEFAULT_CHAT_TEMPLATE
from trainer_service.core.merge_messages import MergeMessage, MergeProgress, MergeReport, MergeSpec
from trainer_service.engine.merge import ABOUT_FILE, merge
from trainer_service.engine.merge_weights import LowRank, Unmergeable, merge_file, tensor_names

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@settings(max_examples=40)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    rank=st.integers(1, 8),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    transposed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_merged_matrix_is_the_rounded_sum_and_nothing_else_changes(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    columns: int,
    rank: int,
    dtype: torch.dtype,
    transposed: bool,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    random = torch.Generator().manual_seed(seed)
    tensors = {
        "before": torch.randn(7, generator=random).to(dtype),
        "w": torch.randn(rows, columns, generator=random).to(dtype),
        "z": torch.arange(5),
    }
    save_file(tensors, folder / "base.safetensors", metadata={"format": "pt"})
    out, inner = (columns, rows) if transposed else (rows, columns)
    a, b = torch.randn(rank, inner, generator=random), torch.randn(out, rank, generator=random)
    copied: list[int] = []
    update = LowRank(a, b, 0.5, transposed=transposed)
    lost = merge_file(
        folder / "base.safetensors", folder / "m.safetensors", {"w": update, "other": update}, copied.append
    )
    merged = load_file(folder / "m.safetensors")
    delta = 0.5 * (b @ a)
    expected = (tensors["w"].float() + (delta.T if transposed else delta)).to(dtype)
    assert torch.equal(merged["w"], expected)
    for name in ("before", "z"):
        assert torch.equal(merged[name], tensors[name])
    assert sum(copied) == (folder / "base.safetensors").stat().st_size
    assert list(lost) == ["w"]
    assert lost["w"] < {torch.float32: 1e-5, torch.bfloat16: 0.5, torch.float16: 0.1}[dtype]
    assert tensor_names(folder / "m.safetensors") == tensor_names(folder / "base.safetensors")


@pytest.mark.parametrize(
    ("weight", "words"), [(torch.zeros(4, 4, dtype=torch.uint8), "unquantised"), (torch.zeros(4, 5), "its update")]
)
def test_weights_that_cannot_take_an_update_are_refused(tmp_path: Path, weight: torch.Tensor, words: str) -> None:
    save_file({"w": weight}, tmp_path / "base.safetensors")
    update = LowRank(torch.ones(1, 4), torch.ones(4, 1), 1.0)
    with pytest.raises(Unmergeable, match=words):
        merge_file(tmp_path / "base.safetensors", tmp_path / "m.safetensors", {"w": update})


class Case:
    """A backbone, an adapter of it in a store, and the merge of both."""

    def __init__(self, root: Path, model: Any, lora: dict[str, Any], tokenizer_of: Path, shard: str = "50GB") -> None:
        from peft import LoraConfig, get_peft_model

        self.root, self.backbone = root, root / "backbone"
        model.save_pretrained(self.backbone, max_shard_size=shard)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (self.backbone / file).write_bytes((tokenizer_of / file).read_bytes())
        torch.manual_seed(1)
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, 0.2)
        adapted.save_pretrained(root / "adapter", save_embedding_layers=False)
        (root / "adapter" / "chat_template.jinja").write_text(DEFAULT_CHAT_TEMPLATE + "{# the adapter's #}")
        self.reference = adapted.merge_and_unload().state_dict()
        self.store = open_store(f"file://{root}/store")
        self.store.tenants.create("acme")
        made = Provenance(made_by="test")
        self.version = self.store.versions.publish(
            "acme", "task", root / "adapter", base=read_base(self.backbone), made=made
        )

    def configure(self, **changes: Any) -> None:
        file = self.backbone / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    def merge(self, evaluate: bool = True) -> tuple[MergeReport, list[MergeMessage], Path]:
        work = self.root / "work"
        work.mkdir()
        spec = MergeSpec(
            tenant="acme",
            adapter="task",
            version=self.version.version,
            backbone=self.backbone,
            store_url=f"file://{self.root}/store",
            work_dir=work,
            device="cpu",
            threads=1,
            evaluate=evaluate,
        )
        sent: list[MergeMessage] = []
        return merge(spec, sent.append), sent, work / "merged"


def llama(dtype: torch.dtype = torch.float32) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=120,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).to(dtype)


QV = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize(
    "lora",
    [
        QV,
        QV | {"use_rslora": True},
        QV | {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        {"r": 2, "lora_alpha": 8, "target_modules": ["lm_head", "q_proj"]},
    ],
)
def test_the_result_is_what_peft_merges(tmp_path: Path, miniature: Path, lora: dict[str, Any]) -> None:
    case = Case(tmp_path, llama(), lora, miniature, shard="20KB")
    assert len(list(case.backbone.glob("*.safetensors"))) > 2
    report, sent, folder = case.merge()
    merged: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        merged |= load_file(file)
    assert merged.keys() == case.reference.keys()
    for name, weights in case.reference.items():
        torch.testing.assert_close(merged[name], weights, rtol=1e-6, atol=1e-6)
    assert report.modules == len(
        {name for name in case.reference if not torch.equal(merged[name], base_of(case)[name])}
    )
    # No data set is known of an adapter that was registered: the comparison itself is still made.
    assert "random tokens" in report.evaluation
    assert report.distance < 1e-4 < 1e-2 < report.effect
    assert {file.path for file in report.files} == {file.name for file in folder.iterdir()}
    assert "the adapter's" in (folder / "chat_template.jinja").read_text()
    assert json.loads((folder / ABOUT_FILE).read_text())["version"] == case.version.version
    stages = [message.stage for message in sent if isinstance(message, MergeProgress)]
    assert list(dict.fromkeys(stages)) == ["fetching", "merging", "evaluating", "checking"]


def base_of(case: Case) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in case.backbone.glob("*.safetensors"):
        found |= load_file(file)
    return found


def test_matrices_that_are_kept_transposed(tmp_path: Path, miniature: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=120, n_embd=32, n_layer=2, n_head=2, n_positions=64))
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    case = Case(tmp_path, model, lora, miniature)
    _, _, folder = case.merge()
    merged = load_file(folder / "model.safetensors")
    changed = [name for name in merged if "c_attn.weight" in name]
    assert len(changed) == 2
    for name in changed:
        reference = next(value for key, value in case.reference.items() if key.endswith(name))
        torch.testing.assert_close(merged[name], reference, rtol=1e-6, atol=1e-6)


def test_a_16_bit_backbone_stays_one_and_the_rounding_is_reported(tmp_path: Path, miniature: Path) -> None:
    report, _, folder = Case(tmp_path, llama(dtype=torch.bfloat16), QV, miniature).merge()
    assert {weights.dtype for weights in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert report.dtype == "bfloat16"
    assert 1e-4 < report.max_rounding < 0.05
    assert report.distance < 0.05 * report.effect


def test_tied_output_layers_are_refused(tmp_path: Path, miniature: Path) -> None:
    """Some checkpoints hold the output layer's matrix all the same; whoever loads one takes the embeddings' instead."""
    case = Case(tmp_path, llama(), {"r": 2, "lora_alpha": 8, "target_modules": ["lm_head", "q_proj"]}, miniature)
    case.configure(tie_word_embeddings=True)
    with pytest.raises(Unmergeable, match="shares its weights"):
        case.merge()


def test_a_quantised_backbone_is_refused(tmp_path: Path, miniature: Path) -> None:
    case = Case(tmp_path, llama(), QV, miniature)
    case.configure(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(Unmergeable, match="is quantised"):
        case.merge()


def test_another_backbone_is_refused(tmp_path: Path, miniature: Path) -> None:
    case = Case(tmp_path, llama(), QV, miniature)
    other = llama()
    with torch.no_grad():
        other.lm_head.weight += 1
    other.save_pretrained(case.backbone)
    with pytest.raises(Unmergeable, match="merge it where that backbone is"):
        case.merge()


def test_a_result_that_does_not_answer_like_the_adapter_is_thrown_away(
    tmp_path: Path, miniature: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tmp_path, llama(), QV, miniature)
    monkeypatch.setattr(LowRank, "delta", lambda self: 2 * self.scale * (self.b.float() @ self.a.float()))
    with pytest.raises(Unmergeable, match="too far to be rounding"):
        case.merge()
    (tmp_path / "work").rename(tmp_path / "away")
    report, _, _ = case.merge(evaluate=False)
    assert report.rows == 0
    assert "skipped as asked" in report.evaluation
