"""Whether a chat template is one that can be read at all.

Owns its syntax, as transformers has it: Jinja with `break` and `continue`, and the tag `generation`. What a template does with a
conversation shows when it is rendered, in a sandbox; nothing of it runs here.
"""

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from adapter_store.errors import InvalidAdapter


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: marks what the assistant says, for training; the text in it is as it is."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # declared as a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def check_template(text: str, name: str) -> None:
    """Raises InvalidAdapter when a template's syntax is wrong.

    Args:
        text: the template.
        name: its file, for the message.
    """
    environment = Environment(extensions=("jinja2.ext.loopcontrols", _Generation))
    try:
        environment.parse(text)
    except TemplateSyntaxError as error:
        raise InvalidAdapter(
            f"{name} is no chat template: {error.message} in line {error.lineno}; mend it, or leave the file out to use the backbone's"
        ) from None
    except RecursionError:
        raise InvalidAdapter(f"{name} is nested too deeply; mend it, or leave the file out") from None
