"""The project's template and what it refuses inside rows."""

import pytest
from transformers import AutoTokenizer

from graftwork.backbone import check_default, default_path
from graftwork.template import DEFAULT_CHAT_TEMPLATE, MARKER, user_content

TURNS = [{"role": "user", "content": "  say\nhi "}, {"role": "assistant", "content": "hi\n"}]


def test_rendering_is_the_documented_layout_and_a_prompt_is_a_prefix_of_it() -> None:
    tokenizer = AutoTokenizer.from_pretrained(default_path())
    whole = tokenizer.apply_chat_template(TURNS, tokenize=False, chat_template=DEFAULT_CHAT_TEMPLATE)
    prompt = tokenizer.apply_chat_template(
        TURNS[:1], tokenize=False, add_generation_prompt=True, chat_template=DEFAULT_CHAT_TEMPLATE
    )
    assert whole == "<|user|>\nsay\nhi<|end|>\n<|assistant|>\nhi<|end|>"
    assert whole.startswith(prompt)


def test_the_shipped_tokenizer_brings_the_same_template() -> None:
    tokenizer = AutoTokenizer.from_pretrained(default_path())
    assert tokenizer.chat_template == DEFAULT_CHAT_TEMPLATE
    text = "".join(map(chr, range(32, 127))) + "\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_shipped_weights_are_the_ones_their_card_names() -> None:
    assert check_default()


@pytest.mark.parametrize(
    "text", ["<|user|>", "a <|im_start|>", "[INST] x", "### Instruction: x", "x\n### Response:", "<start_of_turn>"]
)
def test_foreign_markers_are_found(text: str) -> None:
    assert MARKER.search(text)


@pytest.mark.parametrize("text", ["plain", "a | b", "### Heading", "[instance]", "x <| y", "use ### Response: inline"])
def test_ordinary_text_is_no_marker(text: str) -> None:
    assert not MARKER.search(text)


def test_an_empty_input_leaves_no_trailing_newline() -> None:
    assert user_content("ticket") == "ticket"
    assert user_content("ticket", "a:b\n") == "ticket\na:b"
