"""What the store hands out is what PEFT saved: the same adapter to PEFT and to vLLM's reader."""

import json
from pathlib import Path

import pytest

from adapter_store import Provenance, open_store, read_base

pytestmark = pytest.mark.slow


def test_a_real_peft_adapter_answers_the_same_after_the_store(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"v_proj": 2},
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(base, lora)
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter/README.md").unlink(missing_ok=True)
    (tmp_path / "adapter/chat_template.jinja").write_text("{{ messages }}")
    tokens = torch.arange(10)[None]
    expected = model(tokens).logits

    store = open_store(f"file://{tmp_path}/store")
    store.tenants.create("acme")
    made = Provenance(made_by="tests")
    version = store.versions.publish(
        "acme", "greeter", tmp_path / "adapter", base=read_base(tmp_path / "base"), made=made
    )
    out = store.versions.fetch(version, tmp_path / "out")

    fresh = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded = peft.PeftModel.from_pretrained(fresh, out)
    torch.testing.assert_close(loaded(tokens).logits, expected)
    with loaded.disable_adapter():
        assert not torch.allclose(loaded(tokens).logits, expected), "the adapter has an effect at all"
    assert version.rank == 4
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
