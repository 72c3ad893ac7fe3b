"""A stranger's chat template says what transformers would make it say, and cannot stop or fill this process."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest

from graftwork.backbone import default_path
from graftwork.template import DEFAULT_CHAT_TEMPLATE
from serving_service.engine import templates
from serving_service.engine.templates import IsolatedTemplates, isolate_templates

MESSAGES = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hé <b>"},
    {"role": "assistant", "content": "x"},
]
GOOD = {
    "the project's": DEFAULT_CHAT_TEMPLATE,
    "loop controls and filters": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content | upper | trim }}|{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2, sort_keys=True) }}",
    "a macro": "{% macro say(m) %}[{{ m['role'] }}]{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "white space": "{% for m in messages %}\n  {% if true %}\n  {{ m.content }}\n  {% endif %}\n{% endfor %}\nend",
    "what there is": "{{ bos_token }}{{ add_generation_prompt }}{{ tools is none }}{{ undefined_thing }}",
    "a namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
}
REFUSING = {
    "its own refusal": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "a way out": ("{{ ''.__class__.__mro__ }}", "unsafe|undefined"),
    "what is not there": ("{{ nothing.at.all }}", "undefined"),
}
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "over what it is given": "{% for a in messages[1].content * 9999 %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a number that is computed while compiling": "{{ 9 ** (9 ** 9) }}",
    "a long text": "{{ 'x' * 10 ** 10 }}",
    "a text that doubles": "{% set ns = namespace(t='xx') %}{% for i in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}",
    "a list that doubles when it is written": "{% set ns = namespace(t=[1]) %}{% for i in range(60) %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.t }}",
    "a recursion": "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{% for i in range(9999) %}{{ m(1) if false }}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "padding": "{{ '%999999999d' | format(1) }}",
    "too much text": "{% for a in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}",
}


@pytest.fixture
def isolated() -> Iterator[IsolatedTemplates]:
    made = IsolatedTemplates()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[IsolatedTemplates]:
    made = IsolatedTemplates()
    yield made
    made.close()


def variables() -> dict[str, Any]:
    return {"messages": MESSAGES, "tools": None, "documents": None, "add_generation_prompt": True, "bos_token": "<s>"}


@pytest.mark.parametrize("template", GOOD.values(), ids=GOOD)
def test_it_says_what_transformers_would_make_it_say(shared: IsolatedTemplates, template: str) -> None:
    from transformers.utils.chat_template_utils import _cached_compile_jinja_template

    expected = _cached_compile_jinja_template(template).render(**variables())
    assert shared.render(template, variables()) == expected
    assert expected


@pytest.mark.parametrize(("template", "words"), REFUSING.values(), ids=REFUSING)
def test_its_own_refusal_comes_through_and_the_sandbox_holds(
    shared: IsolatedTemplates, template: str, words: str
) -> None:
    with pytest.raises(jinja2.TemplateError, match=words):
        shared.render(template, variables())


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_a_template_that_never_ends_or_never_fits_is_stopped_and_harms_no_other(
    shared: IsolatedTemplates, template: str
) -> None:
    with pytest.raises(jinja2.TemplateError, match=r"the adapter's template (takes|makes)"):
        shared.render(template, variables())
    assert shared.render("{{ messages[0].content }}", variables()) == "be kind"


def test_after_that_it_is_refused_unread_for_a_while() -> None:
    now = [0.0]
    isolated = IsolatedTemplates(lambda: now[0])
    try:
        with pytest.raises(jinja2.TemplateError, match="takes more than"):
            isolated.render(HOSTILE["a long text"], variables())
        child = isolated._child
        isolated.close()
        with pytest.raises(jinja2.TemplateError, match="takes more than"):
            isolated.render(HOSTILE["a long text"], variables())
        assert child is not None
        assert isolated._child is None, "nobody was asked"
        now[0] += templates.PENALTY_SECONDS
        with pytest.raises(jinja2.TemplateError, match="takes more than"):
            isolated.render(HOSTILE["a long text"], variables())
        assert isolated._child is not None
    finally:
        isolated.close()


def test_the_process_knows_no_secret_and_another_takes_its_place(
    isolated: IsolatedTemplates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-store")
    assert isolated.render("a{{ 1 }}", {}) == "a1"
    child = isolated._child
    assert child is not None
    assert b"a-secret-of-the-store" not in Path(f"/proc/{child.pid}/environ").read_bytes()
    child.kill()
    child.wait()
    assert isolated.render("b{{ 2 }}", {}) == "b2"


def test_transformers_and_so_vllm_render_strangers_templates_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils.chat_template_utils as theirs
    from transformers import AutoTokenizer

    monkeypatch.setattr(theirs, "_compile_jinja_template", theirs._compile_jinja_template)
    monkeypatch.setattr(templates, "_original", None)
    monkeypatch.setattr(templates, "isolated_templates", IsolatedTemplates())
    tokenizer = AutoTokenizer.from_pretrained(default_path())
    used = isolate_templates(tokenizer.chat_template)
    try:
        plain = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
        assert used._child is None, "the backbone's own is rendered here"
        stranger = f"{{# mine #}}{tokenizer.chat_template}"
        assert tokenizer.apply_chat_template(MESSAGES, chat_template=stranger, tokenize=False) == plain
        assert used._child is not None
        began = time.process_time()
        with pytest.raises(jinja2.TemplateError, match="the adapter's template takes"):
            tokenizer.apply_chat_template(MESSAGES, chat_template=HOSTILE["nested loops"], tokenize=False)
        assert time.process_time() - began < 5, "the work is not done in this process"
        compiled = theirs._compile_jinja_template(HOSTILE["a number that is computed while compiling"])
        assert compiled.environment.parse("{{ 1 }}") is not None
    finally:
        used.close()
