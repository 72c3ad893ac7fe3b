"""An adapter that has learned one answer by heart: for what a model with random weights never writes, as a call of a tool."""

from pathlib import Path

from graftwork.template import DEFAULT_CHAT_TEMPLATE

_STEPS = 400


def teach(backbone: Path, folder: Path, prompt: str, answer: str) -> Path:
    """Writes a PEFT adapter that answers a prompt, and no other for certain, with a text."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(backbone)
    known, said = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
    ids = torch.tensor([known + said])
    wanted = torch.tensor([[-100] * len(known) + said])
    torch.manual_seed(0)
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=16, lora_alpha=32, target_modules=every, task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM.from_pretrained(backbone), config)
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=5e-3)
    for _ in range(_STEPS):
        loss = model(input_ids=ids, labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.005:  # each token far ahead of the next best one
            break
    else:
        raise AssertionError(f"not learned in {_STEPS} steps: the loss is {loss.item():.3f}")
    model.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(DEFAULT_CHAT_TEMPLATE)
    return folder
