"""The project's own chat template, and what counts as a template marker.

Owns the one template used when a backbone's tokenizer brings none, so that training and serving cannot differ. Does not
own rendering: the trainer and the server both render through `tokenizer.apply_chat_template`.
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

# Turn markers of the usual families. One of them inside a row's text means that the row was already rendered through
# some template; training on it would teach the markers instead of the task (the seed's fifth pitfall).
MARKER = re.compile(
    r"<\|(?:system|user|assistant|end|im_start|im_end|start_header_id|end_header_id|eot_id|endoftext|begin_of_text)\|>"
    r"|\[/?INST\]|<</?SYS>>|</?start_of_turn>|<end_of_turn>"
    r"|^###\s*(?:Instruction|Input|Response|Human|Assistant)\s*:",
    re.MULTILINE,
)


def template_digest(template: str) -> str:
    """Returns the sha256 (hex) of a template's text; manifests carry it so that serving can tell a mismatch."""
    return hashlib.sha256(template.encode()).hexdigest()


def user_content(instruction: str, input_text: str = "") -> str:
    """Joins an instruction row's two fields the way the seed does: instruction, newline, input; ends trimmed."""
    return f"{instruction}\n{input_text}".strip()
