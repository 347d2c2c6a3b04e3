"""Templates that take something for granted: each is called as it wants to be, or it is said what
it cannot do."""

from __future__ import annotations

import pytest

from tests.support.chat_templates import CONVERSATION, TOKENS, InThisProcess
from tuner.engine import templates
from tuner.engine.protocol import Message
from tuner.engine.template_ways import DEFAULT_SYSTEM
from tuner.engine.templates import FAILS_ON, LEAVES_OUT, ChatTemplate
from tuner.engine.thinking import nearest, taken_as
from tuner.wishes import THINK_LEVELS

LOOP = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
PARTS = "{% for p in m.content %}{{ p.text if p.type == 'text' }}{% endfor %}"
SAID = "[system]Be kind.[user]Hi?[assistant]Hello.[user]Thanks."
FOLDED = "[user]Be kind.\n\nHi?[assistant]Hello.[user]Thanks."
ODD = {
    # template, prompt of the conversation
    "a thought of every answer": (
        "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}"
        "{{ '<' + m.reasoning_content + '>' }}{% endif %}{{ m.content }}{% endfor %}",
        SAID.replace("Hello", "<A greeting.>Hello"),
    ),
    "thinking by another name": (
        "{% for m in messages %}[{{ m.role }}]{{ m.thinking }}{{ m.content }}{% endfor %}",
        SAID.replace("Hello", "A greeting.Hello"),
    ),
    "parts": ("{% for m in messages %}[{{ m.role }}]" + PARTS + "{% endfor %}", SAID),
    "parts of the user only": (
        "{% for m in messages %}[{{ m.role }}]{% if m.role == 'user' %}" + PARTS + "{% else %}"
        "{{ m.content + '' }}{% endif %}{% endfor %}",
        SAID,
    ),
    "no system role": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}",
        FOLDED,
    ),
    "a system role that is dropped": (
        "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}",
        FOLDED,
    ),
    "a token that is not stated": ("{{ pad_token + mask_token }}" + LOOP, SAID),
    "capitals": (LOOP.replace("m.content", "m.content | upper"),
                 "[system]BE KIND.[user]HI?[assistant]HELLO.[user]THANKS."),
    "tools where they are defined": (
        "{% if tools is defined %}{{ raise_exception('tools') }}{% endif %}" + LOOP, SAID
    ),
    "tools unless they are none": (
        "{% if tools is not none %}TOOLS{% endif %}" + LOOP, SAID
    ),
    "documents unless they are none": (
        "{% if documents is not none %}{{ documents | tojson }}{% endif %}" + LOOP, SAID
    ),
    "calls unless they are none": (
        "{% for m in messages %}[{{ m.role }}]"
        "{{ m.content if m.role != 'assistant' or m.tool_calls is none }}{% endfor %}", SAID
    ),
    "methods and slices": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{% for k, v in {'a': 1} | items %}{% if v %}{% continue %}{% endif %}{% break %}"
        "{% endfor %}"
        "[{{ m['role'].strip().split('/')[0][:20] }}]{% generation %}{{ m.get('content') }}"
        "{% endgeneration %}{% endfor %}", SAID
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "TemplateProcess", InThisProcess)


@pytest.mark.parametrize(("template", "prompt"), ODD.values(), ids=ODD)
def test_odd_template(template: str, prompt: str) -> None:
    """It is right, and used without a word."""
    chat = ChatTemplate(template, {**TOKENS, "mask_token": ""})
    assert chat.warnings == ()
    rendered = chat.render(CONVERSATION)
    assert (rendered.text, rendered.source, rendered.notice) == (prompt, "file", "")


@pytest.mark.parametrize(
    ("condition", "system"),
    [("messages[0].role != 'system'", ""), ("not messages[0].content", DEFAULT_SYSTEM)],
    ids=["empty", "said"],
)
def test_a_system_message_that_must_be_there(condition: str, system: str) -> None:
    """Where nobody gave one, it is as empty as the template takes it."""
    needs = f"{{% if {condition} %}}{{{{ raise_exception('system first') }}}}{{% endif %}}"
    if system:
        needs = "{% if messages[0].role != 'system' %}{{ raise_exception('x') }}{% endif %}" + needs
    chat = ChatTemplate(needs + LOOP, TOKENS)
    assert chat.warnings == ()
    assert chat.render(CONVERSATION).text == SAID
    assert chat.render(CONVERSATION[1:2]).text == f"[system]{system}[user]Hi?"


def test_json_as_transformers_writes_it() -> None:
    """Neither HTML nor ASCII escapes; indent, separators and the order of keys by choice."""
    template = LOOP + (
        "{{ {'b': 'ü<', 'a': 1} | tojson }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} "
        "{{ [1, 2] | tojson(separators=(',', ':')) }} {{ [1] | tojson(indent=2) }} "
        "{{ 'ü' | tojson(true) }}"
    )
    chat = ChatTemplate(template, TOKENS)
    text = chat.render([Message("user", "Hi?")]).text
    assert text == '[user]Hi?{"b": "ü<", "a": 1} {"a": 2, "b": 1} [1,2] [\n  1\n] "\\u00fc"'


def test_the_clock_of_a_conversation_stands_still() -> None:
    """A date in the prompt would else cost the cache; another conversation has another."""
    chat = ChatTemplate("{{ strftime_now('%f') }}" + LOOP, TOKENS)
    begun, going_on = (chat.render(CONVERSATION[:n]).text[:6] for n in (2, 4))
    another = chat.render(CONVERSATION[:2]).text[:6]
    assert begun == going_on
    assert begun.isdigit()
    assert another != begun


def test_what_a_template_leaves_out_is_said() -> None:
    """It is used all the same: the format is right."""
    last = "[{{ messages[-1].role }}]{{ messages[-1].content }}"
    chat = ChatTemplate(last, TOKENS)
    assert chat.source == "file"
    what, reason = "an earlier answer", "it leaves out what the assistant said"
    assert chat.warnings == (LEAVES_OUT.format(what=what, reason=reason),)


def test_what_a_template_fails_on_is_said() -> None:
    once = LOOP + "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}"
    chat = ChatTemplate(once, TOKENS)
    assert chat.warnings == (FAILS_ON.format(what="an earlier answer", reason="too long"),)
    assert chat.render(CONVERSATION[:2]).source == "file"
    for _ in range(2):
        rendered = chat.render(CONVERSATION)
        assert rendered.source == "chatml"
        assert "too long" in rendered.notice


def test_each_reason_is_said() -> None:
    counts = "{% if messages | length > 2 %}{{ raise_exception(messages | length ~ ' turns') }}"
    chat = ChatTemplate(counts + "{% endif %}" + LOOP, TOKENS)
    assert ["3 turns" in chat.warnings[0], "4 turns" in chat.warnings[1]] == [True, True]


def test_a_thought_that_a_template_rejects() -> None:
    """It is left out before the format is given up."""
    strict = LOOP + (
        "{% for m in messages if 'bad' in m.thinking | default('') %}{{ raise_exception('bad') }}"
        "{% endfor %}"
    )
    turns = [Message("user", "Hi?"), Message("assistant", "Hello.", "bad"), Message("user", "So?")]
    chat = ChatTemplate(strict, TOKENS)
    rendered = chat.render(turns)
    assert (rendered.text, rendered.notice) == ("[user]Hi?[assistant]Hello.[user]So?", "")


@pytest.mark.parametrize(
    ("level", "offered", "usual", "found"),
    [
        ("low", ("off", "on"), "on", "on"),
        ("off", ("low", "medium", "high"), "medium", "low"),
        ("on", ("low", "medium", "high"), "medium", "medium"),
        ("on", ("off", "low", "high"), "off", "high"),
        ("medium", ("off", "low", "high"), "off", "high"),
        ("high", (), "", ""),
        ("", ("off", "on"), "on", ""),
    ],
)
def test_the_nearest_level(level: str, offered: tuple[str, ...], usual: str, found: str) -> None:
    """What is meant by a level that a template lacks, and that it is said."""
    assert nearest(level, offered, usual) == found
    said = taken_as(level, offered, usual)
    assert bool(said) == (level not in ("", "on"))
    assert not found or level == "on" or found in said


@pytest.mark.parametrize("level", THINK_LEVELS)
def test_a_level_that_is_offered_is_taken(level: str) -> None:
    assert nearest(level, THINK_LEVELS, "on") == level
    assert taken_as(level, THINK_LEVELS, "on") == ""
