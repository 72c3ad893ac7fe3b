"""The project's own chat template, and what counts as a template marker.

Owns the one template used when a backbone's tokenizer brings none, so that training and serving cannot differ, and the
families of templates whose markers have no place in a row. Does not own rendering: the trainer and the server both render
through `tokenizer.apply_chat_template`.
"""

import hashlib
import re

# Newlines stand inside expressions because transformers renders with trim_blocks, which eats one after a tag.
# <|user|>\n...<|end|>\n<|assistant|>\n...<|end|>   White space at both ends of a turn is cut.
DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + (message['content'] | trim) + '<|end|>' }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|assistant|>\\n' }}{% endif %}"
)
"""Jinja text. Roles: system, user, assistant."""

END_OF_TURN = "<|end|>"
"""Closes every turn of the project's template; generation stops there."""

FAMILIES = {
    "project": r"<\|(?:system|user|assistant|end)\|>",
    "chatml": r"<\|im_(?:start|end)\|>",
    "llama3": r"<\|(?:begin_of_text|end_of_text|start_header_id|end_header_id|eot_id|eom_id)\|>",
    "llama2": r"\[/?INST\]|<</?SYS>>",
    "alpaca": r"^###\s*(?:Instruction|Input|Response|Human|Assistant)\s*:",
    "gemma": r"</?start_of_turn>|<end_of_turn>",
    "deepseek": "<\uff5c[^<>\uff5c]{1,40}\uff5c>",
    "harmony": r"<\|(?:start|message|channel|return|call)\|>",
    "command": r"<\|(?:START|END)_OF_TURN_TOKEN\|>",
    "gpt": r"<\|endoftext\|>|<\|endofprompt\|>",
}
"""Family -> the markers that its template writes; `project` is ours, which Phi and Zephyr share."""

# One of them inside a row's text means that the row was already rendered through some template; training on it would
# teach the markers instead of the task (the seed's fifth pitfall).
MARKER = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in FAMILIES.items()), re.MULTILINE)
"""Any marker; the match's `lastgroup` names the family."""


def find_marker(text: str) -> tuple[str, str] | None:
    """Returns (family, marker) of the first template marker in a text, or None.

    `<s>` and `</s>` (family sentencepiece) count only where they frame the text: elsewhere they are HTML.
    """
    # Every marker holds a character of these, and few texts do: a million rows take seconds instead of minutes.
    if "<" not in text and "[" not in text and "###" not in text:
        return None
    if found := MARKER.search(text):
        return found.lastgroup or "", found.group().strip()
    starts, ends = text.lstrip().startswith("<s>"), text.rstrip().endswith("</s>")
    if starts and (ends or "</s>" not in text):
        return "sentencepiece", "<s>"
    return ("sentencepiece", "</s>") if ends and "<s>" not in text else None


def template_digest(template: str) -> str:
    """Returns the sha256 (hex) of a template's text; manifests carry it so that serving can tell a mismatch."""
    return hashlib.sha256(template.encode()).hexdigest()


def user_content(instruction: str, input_text: str = "") -> str:
    """Joins an instruction row's two fields the way the seed does: instruction, newline, input; ends trimmed."""
    return f"{instruction}\n{input_text}".strip()
