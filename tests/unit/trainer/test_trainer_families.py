"""Other families of backbones: packed where packing holds, padded where it does not, and the same loss either way."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from trainer_service.core.recipe import Fleet, RecipeRequest, resolve
from trainer_service.engine.backbone import Backbone, Grafted, load_tokenizer
from trainer_service.engine.batches import Example, ExampleList, batches
from trainer_service.engine.loss import loss_of

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "vocab_size": 102,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
FAMILIES = [
    ("Qwen2", SMALL, "q_proj", True, True),
    ("Mistral", SMALL | {"sliding_window": 6}, "q_proj", True, True),
    ("Gemma", SMALL, "q_proj", True, True),
    ("Gemma2", SMALL | {"sliding_window": 6, "final_logit_softcapping": 5.0}, "q_proj", False, False),
    ("Cohere", SMALL | {"logit_scale": 0.25}, "q_proj", True, False),
    ("GPTNeoX", SMALL, "query_key_value", True, True),
    ("OPT", {"vocab_size": 102, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64,
             "max_position_embeddings": 128, "word_embed_proj_dim": 32, "dropout": 0.0}, "q_proj", True, True),
]  # fmt: skip


def rows() -> ExampleList:
    torch.manual_seed(3)
    made = ExampleList()
    for length in (20, 9, 31, 4):
        supervised = torch.arange(length) >= length // 2
        made.append(Example(torch.randint(2, 102, (length,)), supervised))
    return made


@pytest.mark.parametrize(("family", "config", "target", "packs", "plain"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_a_family_trains_with_the_loss_of_its_own_forward(
    miniature: Path, family: str, config: dict[str, Any], target: str, packs: bool, plain: bool
) -> None:
    import transformers

    torch.manual_seed(0)
    settings = getattr(transformers, f"{family}Config")(**config)
    base = getattr(transformers, f"{family}ForCausalLM")(settings)
    with torch.no_grad():  # weights as drawn make attention too weak to tell rows that see each other
        for parameter in base.parameters():
            if parameter.dim() == 2:
                parameter.mul_(10)
    base.requires_grad_(False)
    data = rows()
    expected, window = 0.0, 0
    base.eval()
    with torch.inference_mode():
        for row in data:
            logits = base(input_ids=row.ids[None]).logits[0, :-1]
            labels = row.ids.masked_fill(~row.supervised, -100)[1:]
            expected += float(F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"))
            window += int(row.supervised[1:].sum())
    recipe, _ = resolve(RecipeRequest(dropout=0.0, target_modules=(target,)), rows=100, fleet=Fleet())
    model = Grafted(Backbone(base, load_tokenizer(miniature), CPU, torch.float32), recipe)
    model.model.train()
    assert model.decoder.packs == packs
    assert model.decoder.plain_head == plain
    found = 0.0
    for batch in batches(data, range(4), 40, pad_id=0, packed=model.decoder.packs):
        model.enter(batch, 0)
        made = loss_of(model, batch, weight=1 / window)
        made.weighed.backward()
        found += float(made.total)
    assert found == pytest.approx(expected, rel=1e-4)
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters)
