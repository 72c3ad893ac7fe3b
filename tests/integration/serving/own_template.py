"""An adapter whose chat template is nothing like the backbone's: it shows tools, calls of them and what they answered.

It has the weights of another adapter, so that only the template can make their answers differ.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for tool in tools or [] %}{{ 'may call ' + tool.function.name + '\\n' }}{% endfor %}"
    "{% for message in messages %}"
    "{{ message.role + ' said: ' + message.content + '\\n' }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ 'called ' + call.function.name + ' as ' + call.id + ' with ' + (call.function.arguments | tojson) + '\\n' }}"
    "{% endfor %}"
    "{% if message.tool_call_id %}{{ 'that answers ' + message.tool_call_id + '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'now you: ' }}{% endif %}"
)
"""No marker and no end of the project's own template is in it."""


def with_template(adapter: Path, folder: Path, template: str = TEMPLATE) -> Path:
    """Writes a copy of an adapter's folder that has another template."""
    shutil.copytree(adapter, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def by_hand(messages: Sequence[Mapping[str, Any]], tools: Sequence[str] = ()) -> str:
    """What `TEMPLATE` makes of a conversation, written without Jinja."""
    lines = [f"may call {name}" for name in tools]
    for message in messages:
        lines.append(f"{message['role']} said: {message.get('content') or ''}")
        for call in message.get("tool_calls") or []:
            asked = call["function"]
            arguments = json.dumps(json.loads(asked["arguments"]))
            lines.append(f"called {asked['name']} as {call['id']} with {arguments}")
        if "tool_call_id" in message:
            lines.append(f"that answers {message['tool_call_id']}")
    return "\n".join([*lines, "now you: "])
