"""The process that renders chat templates which came with an adapter: each in a fork of itself that the kernel ends when it takes too
long or too much.

A template is a program. Jinja's sandbox keeps it from the machine, and from nothing else: two nested loops, or `'x' * 10**10`, which
Jinja computes while it compiles, would stop everybody's requests. Owns the limits, and an environment like transformers' own (a test
compares them). Runs as `python -m serving_service.engine.template_child`; `templates` speaks to it in JSON lines.
"""

import json
import os
import resource
import signal
import sys
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 0.5
"""For one conversation; ordinary templates take some milliseconds for hundreds of turns."""
MEMORY_BYTES = 256 << 20
"""Beyond what this process holds when it is ready."""
MAX_OUTPUT = 4 << 20
"""Characters of a rendered prompt."""
_TEXT_CHARS = 300


def main() -> None:
    """Answers a line for each conversation; ends when its parent closes the pipe."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_try(json.loads(line))) + "\n")
        sys.stdout.flush()


def _try(job: dict[str, Any]) -> dict[str, str]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        # CPU time, so that a busy machine refuses nobody; without a handler the signal ends the process.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY_BYTES,) * 2)
        for none in (resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE):
            resource.setrlimit(none, (0, 0))
        with os.fdopen(write, "w") as pipe:
            pipe.write(json.dumps(render(job["template"], job["variables"])))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    try:
        return dict(json.loads(said))
    except ValueError:  # ended before it had said all
        return {"over": f"takes more than {CPU_SECONDS:g} s or {MEMORY_BYTES >> 20} MiB"}


def render(template: str, variables: dict[str, Any]) -> dict[str, str]:
    """Returns `text`, or why there is none: `error`, the template's own refusal, or `over`, a limit."""
    try:
        text = environment().from_string(template).render(**variables)
    except MemoryError:
        return {"over": f"takes more than {MEMORY_BYTES >> 20} MiB"}
    except Exception as error:  # whatever a template does wrong is its own fault
        return {"error": str(error)[:_TEXT_CHARS] or type(error).__name__}
    if len(text) > MAX_OUTPUT:
        return {"over": f"makes more than {MAX_OUTPUT} characters"}
    return {"text": text}


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: marks what the assistant says, for training; the text in it is as it is."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # declared as a plain set

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_as_it_is"), [], [], body).set_lineno(line)

    def _as_it_is(self, caller: Any) -> Any:
        return caller()


def environment() -> ImmutableSandboxedEnvironment:
    """Returns what templates are rendered in."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _tojson
    made.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    return made


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
