"""Templates in the manner of common models, written for these tests, and templates with bad intent.

The first must give what transformers gives; the second must end soon, in an error that says why.
"""

from __future__ import annotations

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

LLAMA_3 = """\
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
  {%- set system = messages[0]['content'] | trim %}
  {%- set messages = messages[1:] %}
{%- else %}
  {%- set system = "" %}
{%- endif %}
{{- bos_token ~ "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- system ~ "<|eot_id|>" }}
{%- for message in messages %}
  {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content']
    | trim + '<|eot_id|>' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{%- set system = messages[0]["content"] if messages[0]["role"] == "system" else none %}
{%- set loop_messages = messages[1:] if system is not none else messages %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
  {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
    {{- raise_exception("after the system message, user and assistant must take turns") }}
  {%- endif %}
  {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
  {%- if message["role"] == "user" %}
    {%- if loop.last and system is not none %}
{{- "[INST] " + system + "\\n\\n" + message["content"] + "[/INST]" }}
    {%- else %}
{{- "[INST] " + message["content"] + "[/INST]" }}
    {%- endif %}
  {%- else %}
{{- " " + message["content"] | trim + eos_token }}
  {%- endif %}
{%- endfor %}
"""

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{% set first = messages[0]['content'] + '\\n\\n' %}
{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}
{% for message in rest %}
{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}
{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}
{%- if message['content'] is string %}{{ message['content'] | trim }}{% elif message['content'] is
iterable %}{% for item in message['content'] %}{{ item['text'] | trim }}{% endfor %}{% endif %}
{{ '<end_of_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""

PHI_3 = """\
{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\\n' +
message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\\n' +
message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' +
message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}
"""

QWEN = """\
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
  {%- set index = (messages|length - 1) - loop.index0 %}
  {%- if ns.searching and message.role == "user" and not(message.content.startswith('<answer>')
         and message.content.endswith('</answer>')) %}
    {%- set ns.searching = false %}{%- set ns.last_query = index %}
  {%- endif %}
{%- endfor %}
{%- for message in messages %}
  {%- if message.content is string %}{%- set content = message.content %}{%- else %}
    {%- set content = '' %}{%- endif %}
  {%- set reasoning = '' %}
  {%- if message.role == "assistant" and '</think>' in content %}
    {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
    {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
  {%- endif %}
{{- '<|im_start|>' + message.role + '\\n' }}
  {%- if reasoning and loop.index0 > ns.last_query %}
{{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' }}
  {%- endif %}
{{- content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
  {%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
  {%- endif %}
{%- endif %}
"""

TRAINED = """\
{% for m in messages %}{% if m.role == 'assistant' %}A: {% generation %}{{ m.content }}
{% endgeneration %}{% else %}{{ m.role | upper }}: {{ m.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}
"""

DATA = """\
{% macro row(m, n=1) %}{{ n }}/{{ m | length }} {{ m | tojson(indent=2) }}{% endmacro %}
{% for m in messages if m.role != 'system' %}{{ row(m, loop.index) }}
{% if loop.index > 3 %}{% break %}{% endif %}{% endfor %}
{{ messages | map(attribute='role') | unique | join(', ') }} {{ '%s-%02d' % ('a', 7) }}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | last }}
{{ '{0}:{1:>4}'.format('x', 5) }} {{ [1, 2.5, none, true] }} {{ {'k': messages[0].role} }}
{{ "one\\ntwo" | indent(4) }} {{ (7 * 6) ** 2 // 5 }} {{ 'a-b' | replace('-', '+') | title }}
{% for key, value in messages[0].items() %}{{ key }}={{ value | string | length }} {% endfor %}
{{ messages[-1].content.split(' ')[:2] | join('|') }}{{ none | default('none', true) }}
"""

COMMON = {
    "chatml": CHATML,
    "llama-3": LLAMA_3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "phi-3": PHI_3,
    "qwen": QWEN,
    "generation": TRAINED,
    "data": DATA,
}


def _grown(step: str, use: str = "{{ ns.s }}") -> str:
    """Applies a step to ns.s a hundred times."""
    start = "{% set ns = namespace(s=['x']) %}{% for i in range(99) %}"
    return f"{start}{step}{{% endfor %}}{use}"


LONG = "takes more than"
LARGE = "makes more than"
HOSTILE = {  # name -> (template, what the error says)
    "loops": ("{% for a in range(99999) %}" * 2 + "{% endfor %}" * 2, LONG),
    "filtered loops": (
        "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
        LONG,
    ),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "too deeply"),
    "recursive loop": ("{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}", "too deeply"),
    "recursive block": ("{% block a %}{{ self.a() }}{% endblock %}", "too deeply"),
    "tree of calls": (
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        LONG,
    ),
    "long comparisons": (
        "{% set l = range(99999)|list %}{% for i in range(99999) %}{{ -1 in l }}{% endfor %}",
        LONG,
    ),
    "long tests": (
        "{% set l = range(99999)|list %}{{ range(99999)|select('in', l)|list }}",
        LONG,
    ),
    "product": ("{{ 'x' * 10**9 }}", LARGE),
    "product of lists": ("{{ 10**9 * [1] }}", LARGE),
    "power": ("{{ 9 ** (9 ** 9) }}", "4096 bits"),
    "squares": (_grown("{% set ns.s = 3 if i == 0 else ns.s * ns.s %}"), "4096 bits"),
    "width": ("{{ '%999999999d' % 1 }}", "width"),
    "width in a value": ("{{ '%*d' % (999999999, 1) }}", "width"),
    "width of format": ("{{ '{:999999999}'.format(1) }}", "width"),
    "width of format in a value": ("{{ '{:{}}'.format(1, 999999999) }}", "width"),
    "many fields": ("{{ '%s' * 100000 % (('x' * 100000,) * 100000) }}", LARGE),
    "format filter": ("{{ '%0999999999d'|format(1) }}", "width"),
    "center filter": ("{{ 'x'|center(10**9) }}", LARGE),
    "center": ("{{ 'x'.center(10**9) }}", LARGE),
    "indent": ("{{ ('\\n' * 10**6)|indent(10**6) }}", LARGE),
    "join filter": ("{{ ('a' * 10**6)|join('x' * 10**6) }}", LARGE),
    "join": ("{{ ('x' * 10**6).join(['a'] * 10**6) }}", LARGE),
    "replace filter": ("{{ ('x' * 10**6)|replace('x', 'y' * 10**6) }}", LARGE),
    "replace": ("{{ ('x' * 10**6).replace('', 'y' * 10**6) }}", LARGE),
    "tojson": ("{{ [1]|tojson(indent=10**9) }}", "indents JSON"),
    "round": ("{{ 1.5|round(10**9, 'ceil') }}", "rounds to more"),
    "sum of lists": ("{{ ([[1]] * 100000)|sum(start=[]) }}", "no number"),
    "sort": ("{{ (['x' * 10**6] * 100000)|sort }}", LARGE),
    "strip": ("{{ ('a' * 10**6).strip('b' * 10**6 ~ 'a') }}", "searches backwards"),
    "rfind": ("{{ ('a' * 10**6).rfind('b' ~ 'a' * 10**5) }}", "searches backwards"),
    "static text": ("{% for i in range(99999) %}" + "A" * 5000 + "{% endfor %}", LARGE),
    "doubled by ~": (_grown("{% set ns.s = ns.s ~ ns.s %}"), LARGE),
    "doubled by +": (_grown("{% set ns.s = ns.s + ns.s %}"), LARGE),
    "doubled by set": (
        _grown("{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}"),
        LARGE,
    ),
    "nested lists": (_grown("{% set ns.s = [ns.s, ns.s] %}"), LARGE),
    "nested products": (_grown("{% set ns.s = [ns.s] * 2 %}", "{{ ns.s == ns.s }}"), LARGE),
    "nested dicts": (_grown("{% set ns.s = dict(a=ns.s, b=ns.s) %}"), LARGE),
    "compared dicts": (
        "{% set ns = namespace(a=1, b=1) %}{% for i in range(60) %}"
        "{% set ns.a = dict(x=ns.a, y=ns.a) %}{% set ns.b = dict(x=ns.b, y=ns.b) %}"
        "{% endfor %}{{ ns.a == ns.b }}",
        LARGE,
    ),
    "compared arguments": (
        "{% set ns = namespace(a=1, b=1) %}"
        "{% macro m() %}{% set ns.a = varargs %}{% endmacro %}"
        "{% for i in range(60) %}{{ m(ns.a, ns.a) }}"
        "{% set ns.b = cycler(ns.b, ns.b).items %}{% endfor %}{{ ns.a == ns.b }}",
        LARGE,
    ),
    "nested namespaces": (_grown("{% set ns.s = namespace(a=ns.s, b=ns.s) %}"), "a Namespace"),
    "slices": (
        "{% set s = 'x' * 10**6 %}"
        + "".join(f"{{% set a{i} = s[1:] %}}" for i in range(99))
        + "{{ a1 }}",
        LARGE,
    ),
    "bytes": ("{{ (1).to_bytes(10**9, 'big') }}", "may not call int.to_bytes"),
    "lorem ipsum": ("{{ lipsum(n=10**6) }}", "'lipsum' is undefined"),
    "format_map": ("{{ '{a.__class__}'.format_map({'a': ''}) }}", "may not call str.format_map"),
    "unbound method": ("{{ dict.update(messages[0], {'a': 1}) }}", "may not call"),
    "change": ("{{ messages.append(1) }}", "unsafe"),
    "class": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "class of a message": ("{{ messages.__class__.__base__.__subclasses__() }}", "unsafe"),
    "globals": ("{{ raise_exception.__globals__['json'] }}", "unsafe"),
    "frame": ("{{ (messages|map('upper')).gi_frame.f_builtins }}", "no attribute 'gi_frame'"),
}

UNREADABLE = {  # name -> (template, what the error says)
    "syntax": ("{% if %}", "cannot be read"),
    "include": ("{% include '/etc/passwd' %}", "may not load other files"),
    "import": ("{% import 'other' as other %}", "may not load other files"),
    "from": ("{% from 'other' import name %}", "may not load other files"),
    "extends": ("{% extends 'other' %}", "may not load other files"),
    "attr filter": ("{{ ''|attr('__class__') }}", "No filter named 'attr'"),
    "parentheses": ("{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}", "recursion"),
    "nesting": ("{% for a in b %}" * 40 + "{% endfor %}" * 40, "nested"),
    "digits": ("{{ " + "9" * 10_000 + " }}", "digits"),
    "size": ("x" * (2 << 20), "2097152 characters"),
}
