"""A chat template cannot hold a thread or the memory, and those of real models do not notice."""

from __future__ import annotations

import subprocess
import sys

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from models.errors import RequestRefused
from models.generation import ChatMessage
from models.text.chat_template import ChatTemplate
from tests.documents import ROOT

TOO_MUCH = "it does too much work"
LOOP = "{% for a in range(99999) %}"
LONG = "{% set s = messages[0].content %}"  # 6,000 characters
DOUBLED = "{% for i in range(60) %}{% set ns.x = CODE %}{% endfor %}"
NAMESPACE = "{% set ns = namespace(x='aaaaaaaa', y='x') %}"
PAIRS = NAMESPACE + DOUBLED.replace("CODE", "[ns.x, ns.x]")


def doubling(code: str) -> str:
    """A value that doubles sixty times."""
    return NAMESPACE + DOUBLED.replace("CODE", code)


WORK = {
    "nested loops": f"{LOOP}{LOOP}{{% endfor %}}{{% endfor %}}",
    "loops whose tests leave all out": f"{LOOP}{{% for b in range(99999) if b is string %}}"
    "{% endfor %}{% endfor %}",
    "a recursive loop": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 60 }}"
    "{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "blocks": "{% block a %}{% for i in range(9) %}{{ self.a() if 0 else '' }}{% endfor %}"
    f"{LOOP}{LOOP}{{% endfor %}}{{% endfor %}}{{% endblock %}}",
    "multiplied text": "{{ 'a' * 10**9 }}",
    "multiplied lists": "{{ [0] * 10**9 }}",
    "multiplied tuples": "{% set x = 10**9 * (0, 1) %}",
    "powers": "{{ 10 ** (10 ** 8) }}",
    "squares": NAMESPACE + "{% set ns.x = 3 %}"
    "{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "a percent width": "{{ '%1000000000d' % 1 }}",
    "a percent width with a name": "{{ '%(a)01000000000d' % {'a': 1} }}",
    "a percent width with an odd name": "{{ '%(a(b))01000000000d' % {'a(b)': 1} }}",
    "a percent width of the arguments": "{{ '%*d' % (1000000000, 1) }}",
    "percent fields": f"{LONG}{{{{ ('%(a)s' * 9000) % {{'a': s * 100}} }}}}",
    "a percent filter": "{{ '%1000000000d' | format(1) }}",
    "a format width": "{{ '{:1000000000}'.format(1) }}",
    "a format width of the arguments": "{{ '{:{}}'.format(1, 1000000000) }}",
    "a mapped format width": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "format fields": f"{LONG}{{{{ ('{{0}}' * 9000).format(s * 100) }}}}",
    "center": "{{ 'a'.center(1000000000) }}",
    "zfill": "{{ 'a'.zfill(1000000000) }}",
    "ljust for each": "{{ range(99999) | map('string') | map('indent', 1000000000) | list }}",
    "replace": f"{LONG}{{% set x = s.replace('', s).replace('', s) %}}",
    "the filter replace": f"{LONG}{{% set x = s | replace(new=s * 100, old='l') %}}",
    "join": f"{LONG}{{% set x = (s * 100).join(s) %}}",
    "the filter join": f"{LONG}{{% set x = range(99999) | join(d=s) %}}",
    "the filter indent": "{{ ('\n' * 100000) | indent(9999, blank=True) }}",
    "added text": doubling("ns.x + ns.x"),
    "joined text": doubling("ns.x ~ ns.x"),
    "added lists": doubling("ns.y and [1] + [ns.x]") + doubling("(ns.x | list) + (ns.x | list)"),
    "captured text": NAMESPACE + "{% for i in range(60) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}"
    "{% endset %}{% endfor %}",
    "captured words": NAMESPACE + LOOP + "{% set ns.x %}" + "word " * 20_000 + "{% endset %}"
    "{% endfor %}",
    "lists of lists as text": PAIRS + "{{ ns.x }}",
    "lists of lists as JSON": PAIRS + "{{ ns.x | tojson }}",
    "lists of lists in a text": PAIRS + "{% set y = '%s' % [ns.x] %}",
    "lists of lists compared": PAIRS + "{% set a = ns.x %}" + PAIRS + "{{ a == ns.x }}",
    "lists of lists tested": PAIRS + "{% set a = ns.x %}" + PAIRS + "{{ a is eq(ns.x) }}",
    "pairs of pairs as keys": doubling("(ns.x, ns.x)") + "{{ {ns.x: 1} }}",
    "pairs of pairs looked up": doubling("(ns.x, ns.x)") + "{{ {}[ns.x] }}",
    "pairs of pairs looked for": doubling("(ns.x, ns.x)") + "{{ ns.x in {} }}",
    "pairs of pairs asked for": doubling("(ns.x, ns.x)") + "{{ {}.get(ns.x) }}",
    "arguments of arguments": "{% macro f() %}{{ varargs }}{{ f(varargs, varargs) }}"
    "{% endmacro %}{{ f(1) }}",
    "searches": f"{LONG}{{% set t = s * 500 %}}{LOOP}{{% if 'x' in t %}}{{% endif %}}"
    "{% endfor %}",
    "comparisons": f"{LONG}{{% set t = s * 500 %}}{{% set u = s * 500 %}}{LOOP}"
    "{% if t == u %}{% endif %}{% endfor %}",
    "copies": f"{{% set t = range(99999) | list %}}{LOOP}{{% set u = t[1:] %}}{{% endfor %}}",
    "methods": f"{LONG}{{% set t = s * 500 %}}{LOOP}{{% set u = t.upper() %}}{{% endfor %}}",
    "sorting": f"{LOOP}{{% set u = range(99999) | sort %}}{{% endfor %}}",
    "chains of filters": NAMESPACE + "{% set ns.x = range(99999) | list %}" + LOOP
    + "{% set ns.x = ns.x | select('defined') %}{% endfor %}",
    "pieces": f"{LONG}{{{{ (s * 600).split('l') }}}}",
}  # fmt: skip

MISSING = {
    "expandtabs": "{{ '\t'.expandtabs(1000000000) }}",
    "to_bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "translate": "{{ 'a'.translate({97: 'b'}) }}",
    "lipsum": "{{ lipsum(1000000) }}",
    "batch": "{{ [1] | batch(1000000000, 0) | list }}",
    "slice": "{{ [1] | slice(1000000000) | list }}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends '/etc/passwd' %}",
    "import": "{% import '/etc/passwd' as x %}",
    "indented JSON": "{{ messages | tojson(indent=1000000000) }}",
}

REAL = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}",
    "mistral": "{%- if messages[0]['role'] == 'system' %}{%- set system_message = "
    "messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set "
    "loop_messages = messages %}{%- endif %}{{- bos_token }}{%- for message in loop_messages %}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles') }}"
    "{%- endif %}{%- if message['role'] == 'user' %}{%- if loop.last and system_message is defined "
    "%}{{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}{%- else %}"
    "{{- '[INST] ' ~ message.content ~ '[/INST]' }}{%- endif %}{%- else %}"
    "{{- ' ' + message['content'] | trim + eos_token }}{%- endif %}{%- endfor %}",
    "qwen 3": "{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if ns.multi_step and message.role == 'user' and message.content is string and not("
    "message.content.startswith('<r>') and message.content.endswith('</r>')) %}"
    "{%- set ns.multi_step = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}{%- set content = message.content %}{%- if '</think>' in content"
    " %}{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}"
    "{%- if loop.index0 > ns.last and not loop.last %}{{ loop.length }}{%- endif %}{%- endfor %}",
    "all kinds of loops": "{%- macro shown(m, mark='*') -%}{{ mark ~ m.role }}{%- endmacro -%}"
    "{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }}"
    "{{ shown(m) }}{{ loop.previtem.role if loop.previtem is defined }}"
    "{{ loop.cycle('a', 'b') }}{% if loop.last %}!{% endif %}{% else %}none{% endfor %}"
    "{% for x in [[1, [2]], [3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}"
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
    "{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content | length }}{% endfor %}"
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}"
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') }}"
    "{{ messages | map(attribute='role') | unique | list | tojson }}"
    "{{ '%s-%05.1f' % ('x', 2.5) }}{{ '{:>5}|{a}'.format(7, a='b') }}{{ [1, 2] + [3] }}"
    "{{ messages | tojson(indent=2) }}{{ 'a,b'.split(',') | last | upper }}{{ 7 // 2 ** 2 - 1 }}"
    "{% set x %}kept {{ bos_token }}{% endset %}{{ x | replace('kept', 'k') | indent(2) }}"
    "{{ dict(a=1).get('a') }}{{ 'abc'[1:] ~ 'd' * 3 }}{{ namespace(a=1).a }}",
}  # fmt: skip

TALK = [
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content="Hi <r>"),
    ChatMessage(role="assistant", content="<think>x</think>\nHello "),
    ChatMessage(role="user", content="Bye\nbye"),
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def outcome(template: str) -> str:
    """What became of it in a process of its own, which has a gigabyte."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.hostile_template"],
        input=template, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.parametrize("template", WORK.values(), ids=WORK.keys())
def test_a_template_that_works_without_end_is_refused(template: str) -> None:
    assert TOO_MUCH in outcome(template)


@pytest.mark.parametrize("template", MISSING.values(), ids=MISSING.keys())
def test_what_grows_out_of_proportion_is_not_there(template: str) -> None:
    told = outcome(template)
    assert "rendered" not in told
    assert "Memory" not in told


@pytest.mark.parametrize("name", REAL)
def test_templates_of_real_models_are_rendered_as_by_transformers(name: str) -> None:
    talk = TALK[1:] if name == "mistral" else TALK
    (expected,), _ = render_jinja_template(
        conversations=[[message.model_dump() for message in talk]],
        chat_template=REAL[name],
        add_generation_prompt=True,
        **TOKENS,
    )
    assert ChatTemplate(REAL[name], TOKENS).render(talk) == expected


@pytest.mark.parametrize("name", REAL)
def test_the_longest_conversations_are_rendered(name: str) -> None:
    """A line of a file may have a mebibyte: one message of that, or ten thousand."""
    long = [ChatMessage(role="user", content="x" * 1024**2)]
    many = [
        ChatMessage(role=role, content="Do you hear me?")
        for role in ("user", "assistant") * 5_000
    ]  # fmt: skip
    for talk in (long, [*many, ChatMessage(role="user", content="x")]):
        assert ChatTemplate(REAL[name], TOKENS).render(talk)


def test_every_rendering_has_the_whole_allowance_and_ends_alike() -> None:
    half = ChatTemplate("{% for a in range(99999) %}{% set x = 1 %}{% endfor %}" * 6, {})
    assert half.render(TALK) == half.render(TALK) == half.render(TALK)
    without_end = ChatTemplate(WORK["nested loops"], {})
    for _ in range(2):
        with pytest.raises(RequestRefused, match=TOO_MUCH):
            without_end.render(TALK)


@pytest.mark.parametrize(
    "template",
    ["{% if a %}" * 50_000, "{{ " + "(" * 50_000, "{{ " + "9" * 5_000 + " }}", "x" * 1024**2 + "x",
     "{% for a in b %}" * 60 + "{% endfor %}" * 60],
    ids=["conditions", "brackets", "digits", "characters", "loops"],
)  # fmt: skip
def test_a_template_too_large_for_the_compiler_is_refused(template: str) -> None:
    with pytest.raises(jinja2.TemplateError):
        ChatTemplate(template, {})
