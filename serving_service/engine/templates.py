"""Chat templates that came with an adapter are rendered where they can be stopped: in `template_child`, not here.

Owns which templates are trusted (the backbone's own and the project's), that process, and how long a template that went over its
limits is left alone: it holds up the thread that renders for everybody, so it may not do that again at once. Both ways to a prompt,
ours and vLLM's, compile templates through one function of transformers, which is replaced here.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jinja2
import structlog

from serving_service.engine.lifeline import tied_program

PENALTY_SECONDS = 60.0
"""For which a template is refused unread after it went over its limits."""
_WALL_SECONDS = 30.0
"""For one answer of the child, on however busy a machine; its own limit is CPU time."""
_PENALTIES = 4096  # remembered

log = structlog.get_logger(__name__)


class IsolatedTemplates:
    """Renders templates of strangers. Thread-safe; one for a process (`isolated_templates`).

    Args:
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._trusted: set[str] = set()
        self._penalties: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def trust(self, *templates: str | None) -> None:
        """Lets templates be rendered in this process, as fast as before: the backbone's, whose weights run here anyway."""
        self._trusted |= {template for template in templates if template}

    def trusts(self, template: str) -> bool:
        """Whether a template is rendered in this process."""
        return template in self._trusted

    def render(self, template: str, variables: dict[str, Any]) -> str:
        """Renders a template that is not trusted.

        Raises:
            jinja2.TemplateError: it refuses the conversation, or goes over its limits.
        """
        digest = hashlib.sha256(template.encode()).digest()
        with self._lock:
            until, why = self._penalties.get(digest, (0.0, ""))
            if self._clock() < until:
                raise jinja2.TemplateError(why)
            answer = self._ask({"template": template, "variables": variables})
            if over := answer.get("over"):
                why = f"the adapter's template {over}; register the adapter with a simpler one"
                log.warning("template over its limits", template_sha256=digest.hex(), why=over)
                self._penalties[digest] = (self._clock() + PENALTY_SECONDS, why)
                self._penalties.move_to_end(digest)
                while len(self._penalties) > _PENALTIES:
                    self._penalties.popitem(last=False)
                raise jinja2.TemplateError(why)
        if "error" in answer:
            raise jinja2.TemplateError(answer["error"])
        return answer["text"]

    def close(self) -> None:
        """Ends the child; the next template starts another one."""
        with self._lock:
            self._end()

    def _ask(self, job: dict[str, Any]) -> dict[str, str]:
        line = json.dumps(job, default=str).encode() + b"\n"
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        too_late = threading.Timer(_WALL_SECONDS, child.kill)
        too_late.start()
        try:
            child.stdin.write(line)
            child.stdin.flush()
            return dict(json.loads(child.stdout.readline()))
        except (OSError, ValueError):
            self._end()
            return {"over": f"took more than {_WALL_SECONDS:g} s, or ended the process that renders it"}
        finally:
            too_late.cancel()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._child = subprocess.Popen(
                tied_program("serving_service.engine.template_child"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Nothing of the store's credentials for whatever may get out of the sandbox.
                env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


class _Isolated:
    """What stands for a compiled template; it is never compiled here, because compiling computes constants."""

    def __init__(self, template: str, environment: Any, templates: IsolatedTemplates) -> None:
        self._template, self._templates = template, templates
        self.environment = environment
        """To parse with."""

    def render(self, **variables: Any) -> str:
        return self._templates.render(self._template, variables)


isolated_templates = IsolatedTemplates()
"""This process's own: transformers has one cache of templates for all who use it."""

_original: Callable[[str], Any] | None = None


def isolate_templates(*trusted: str | None) -> IsolatedTemplates:
    """Has every template but the trusted ones rendered outside of this process, also inside vLLM. May be repeated."""
    global _original
    import transformers.utils.chat_template_utils as theirs

    isolated_templates.trust(*trusted)
    if _original is None:
        original = _original = theirs._compile_jinja_template

        def compile_template(chat_template: str) -> Any:
            if isolated_templates.trusts(chat_template):
                return original(chat_template)
            return _Isolated(chat_template, original("").environment, isolated_templates)

        theirs._compile_jinja_template = compile_template
    return isolated_templates
