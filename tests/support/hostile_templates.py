"""Chat templates that mean harm: each kind many times over, by seed."""

from __future__ import annotations

import random
from collections.abc import Callable

Make = Callable[[random.Random], str]
SAID = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TRIGGER = "please loop"  # the text on which some begin


def _big(r: random.Random) -> int:
    return r.choice([10**8, 10**9, 3 * 10**9, 10**10, 2**31 - 1])


def _ranges(r: random.Random) -> str:
    names = "abcd"[: r.randint(2, 4)]
    begin = "".join(f"{{% for {n} in range({r.randint(50_000, 99_999)}) %}}" for n in names)
    return SAID + begin + r.choice(["x", "{{ a }}", ""]) + "{% endfor %}" * len(names)


def _powers(r: random.Random) -> str:
    base, tower = r.randint(7, 99), r.choice(["9**9", "10**8", "8**9"])
    return SAID + r.choice([
        f"{{{{ {base}**({tower}) }}}}",
        f"{{% set x = {base}**({tower}) %}}{{{{ x % 7 }}}}",
        f"{{% if {base}**({tower}) > 1 %}}x{{% endif %}}",
    ])  # fmt: skip


def _doubling(r: random.Random) -> str:
    twice = r.choice(["n.s ~ n.s", "n.s + n.s", "n.s * 2", "[n.s, n.s] | join"])
    return (
        f"{{% set n = namespace(s='{'a' * r.randint(1, 9)}') %}}"
        f"{{% for i in range({r.randint(36, 60)}) %}}{{% set n.s = {twice} %}}{{% endfor %}}"
        + SAID
        + "{{ n.s | length }}"
    )


def _formats(r: random.Random) -> str:
    width = _big(r)
    return SAID + r.choice([
        f"{{{{ '%{width}d' % 1 }}}}", f"{{{{ '%.{width}f' % 1.5 }}}}",
        f"{{{{ '{{:>{width}}}'.format('x') }}}}", f"{{{{ 'x'.ljust({width}) }}}}",
        f"{{{{ 'x' | center({width}) }}}}", f"{{{{ 'x'.zfill({width}) }}}}",
    ])  # fmt: skip


def _multiplied(r: random.Random) -> str:
    what = r.choice(["'ab'", "[0]", "(1, 2)", "[messages]"])
    return SAID + f"{{{{ ({what} * {_big(r)}) | length }}}}"


def _json(r: random.Random) -> str:
    return SAID + f"{{{{ messages | tojson(indent={_big(r)}) }}}}"


def _lists(r: random.Random) -> str:
    return SAID + r.choice([
        f"{{{{ range({_big(r)}) | list | length }}}}", f"{{{{ range({_big(r)}) | join }}}}",
        f"{{{{ range({_big(r)}) | sum }}}}", f"{{{{ range({_big(r)}) | map('string') | list }}}}",
        "{{ ('a' * 9000000) | list | sort | join | length }}" * 9,
    ])  # fmt: skip


def _huge(r: random.Random) -> str:
    pieces = ["{% if a %}{% endif %}", "text of no end ", "{{ a }}", "{# x #}", "{% set a = 1 %}"]
    piece = r.choice(pieces)
    return SAID + piece * (r.randint(2, 10) * 2**20 // len(piece))


def _nearly_huge(r: random.Random) -> str:
    piece = r.choice(["{% if a %}{% endif %}", "{{ a }}", "{% for x in y %}{% endfor %}"])
    return SAID + piece * (1_000_000 // len(piece))


def _deep(r: random.Random) -> str:
    depth = r.choice([500, 5_000, 50_000])
    return SAID + r.choice([
        "{{ " + "(" * depth + "1" + ")" * depth + " }}", "{{ " + "[" * depth + "]" * depth + " }}",
        "{% if 1 %}" * depth + "{% endif %}" * depth, "{{ " + "-" * depth + "1 }}",
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n) }}{% endmacro %}{{ f(0) }}",
        "{{ 1" + " + 1" * depth + " }}",
    ])  # fmt: skip


def _only_on_some_texts(r: random.Random) -> str:
    inner = r.choice([_ranges, _powers, _doubling, _formats, _multiplied, _json, _lists])(r)
    inner = inner.replace(SAID, "")
    condition = r.choice([
        f"'{TRIGGER}' in messages[-1].content", f"messages[-1].content == '{TRIGGER}'",
        f"messages | length > 2 or '{TRIGGER}' in messages[0].content",
    ])  # fmt: skip
    return SAID + f"{{% if {condition} %}}{inner}{{% endif %}}"


def _long_answers(r: random.Random) -> str:
    return SAID + f"{{% for a in range({r.randint(3, 9)}0000) %}}{'y' * 500}{{% endfor %}}"


def _escapes(r: random.Random) -> str:
    return SAID + r.choice([
        "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__.os }}",
        "{{ self._TemplateReference__context }}", "{{ lipsum.__globals__['os'].popen('id') }}",
        "{% include '/etc/passwd' %}", "{% import 'os' as os %}{{ os }}",
        "{{ (messages | attr('__class__')).__base__ }}", "{{ raise_exception('\\x1b]52;c;eA') }}",
        "{% do messages.clear() %}", "{{ messages.append(1) }}",
    ])  # fmt: skip


KINDS: dict[str, Make] = {
    "ranges": _ranges, "powers": _powers, "doubling": _doubling, "formats": _formats,
    "multiplied": _multiplied, "json": _json, "lists": _lists, "huge": _huge,
    "nearly huge": _nearly_huge, "deep": _deep, "on some texts": _only_on_some_texts,
    "long answers": _long_answers, "escapes": _escapes,
}  # fmt: skip


def hostile(seed: int) -> tuple[str, str]:
    """Kind and template; all kinds in turn."""
    kind = list(KINDS)[seed % len(KINDS)]
    return kind, KINDS[kind](random.Random(seed))
