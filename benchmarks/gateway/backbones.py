"""Backbones of random weights in two shapes: overhead does not depend on what a model has learned."""

from pathlib import Path

from graftwork.backbone import resolve

SHAPES = {
    "mini": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 8},
    "115m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 12},
}
LENGTH = 1024


def make(shape: str, folder: Path) -> int:
    """Writes a backbone with the shipped one's tokenizer; returns the size of its vocabulary."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(resolve("graft-mini"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
        **SHAPES[shape],
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return len(tokenizer)
