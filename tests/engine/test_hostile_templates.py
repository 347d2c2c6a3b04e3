"""A template takes no more time and memory than it may have, whatever it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.support.hostile_templates import KINDS, TRIGGER, hostile
from tuner.engine import template_process
from tuner.engine.protocol import Message
from tuner.engine.template_process import MEMORY, TemplateStoppedError, UnusableError
from tuner.engine.templates import BAD_TEMPLATE, ChatTemplate
from tuner.units import MIB

SEEDS = 2 * len(KINDS)
SECONDS = 1.0  # instead of 5 and 10


@pytest.fixture(autouse=True)
def _short_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "RENDER_SECONDS", SECONDS)
    monkeypatch.setattr(template_process, "COMPILE_SECONDS", SECONDS)


@contextmanager
def memory_watched() -> Iterator[None]:
    """No child takes more than the budget, at any moment."""
    over = threading.Event()
    most = [0]

    def look() -> None:
        while not over.wait(0.01):
            for child in psutil.Process().children(recursive=True):
                try:
                    if "template_child" in " ".join(child.cmdline()):
                        most[0] = max(most[0], child.memory_info().rss)
                except psutil.Error:
                    continue

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()
    assert most[0] < MEMORY + 32 * MIB


@pytest.mark.parametrize("seed", range(SEEDS), ids=lambda seed: f"{hostile(seed)[0]}-{seed}")
def test_hostile_template(seed: int) -> None:
    """A prompt comes out all the same, soon, with every word that was said."""
    _, template = hostile(seed)
    began = time.monotonic()
    with memory_watched():
        chat = ChatTemplate(template, {"bos_token": "<s>", "eos_token": "</s>"})
        for text in ("hello", TRIGGER):
            assert text in chat.render([Message("user", text)]).text
    chat.close()
    # At most a start, a compilation, the rendering that took too long, and those before it.
    assert time.monotonic() - began < 6 * SECONDS + 4


def test_a_template_that_loops_on_some_texts_only() -> None:
    """It is caught at those, not before; ChatML stands in from then on, and the reason is said."""
    looping = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if 'loop' in m.content %}"
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        "{% endif %}{% endfor %}"
    )
    chat = ChatTemplate(looping, {})
    assert not chat.warnings
    assert chat.render([Message("user", "one")]).text == "[user]one"
    assert "<|im_start|>user\nloop" in chat.render([Message("user", "loop")]).text
    assert chat.warnings == (BAD_TEMPLATE.format(reason="it takes longer than 1 seconds"),)
    began = time.monotonic()
    assert "<|im_start|>user\none" in chat.render([Message("user", "one")]).text
    assert time.monotonic() - began < 0.1
    assert chat.source == "chatml"


def test_a_slow_template_is_not_tried_for_long() -> None:
    """One that takes its time and leaves out answers in every way is taken as it is."""
    slow = (
        "{% for a in range(900) %}{% for b in range(900) %}{% endfor %}{% endfor %}"
        "{{ messages[-1].content }}{{ enable_thinking }}"
    )
    began = time.monotonic()
    chat = ChatTemplate(slow, {})
    assert time.monotonic() - began < 4 * SECONDS + 2
    assert chat.source == "file"
    assert chat.render([Message("user", "hello")]).text == "hello"
    chat.close()


def test_a_stop_is_heard_while_a_template_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the template is used again afterwards: it was not to blame."""
    monkeypatch.setattr(template_process, "RENDER_SECONDS", 60)
    template = (
        "{{ messages[0].content }}{% if messages[0].content == 'long' %}"
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
    )
    stop = threading.Event()
    chat = ChatTemplate(template, {}, stop.is_set)
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(TemplateStoppedError):
        chat.render([Message("user", "long")])
    assert time.monotonic() - began < 2
    stop.clear()
    assert chat.render([Message("user", "hello")]).text == "hello"
    assert chat.source == "file"
    chat.close()


def test_a_template_s_process_that_is_killed_comes_back() -> None:
    """By whomever: the template was not to blame, unless it happens again at once."""
    others = set(psutil.Process().children())
    chat = ChatTemplate("{% for m in messages %}<{{ m.content }}>{% endfor %}", {})
    for text in ("one", "two"):
        assert chat.render([Message("user", text)]).text == f"<{text}>"
        (child,) = set(psutil.Process().children()) - others
        child.kill()
        child.wait()
    assert chat.render([Message("user", "three")]).text == "<three>"
    chat.close()
    dies = ChatTemplate("{{ messages[0].content }}" + "{{ " + "(" * 100_000 + " }}", {})
    assert dies.source == "chatml"


def test_a_template_that_is_too_long_is_not_even_read() -> None:
    with pytest.raises(UnusableError, match="it has 1,048,577 characters"):
        template_process.TemplateProcess("x" * (2**20 + 1), lambda: False)


def test_a_long_conversation_is_no_attack() -> None:
    """A hundred thousand words in a thousand turns go through a template as they are."""
    turns = [Message(r, "word " * 100) for _ in range(500) for r in ("user", "assistant")]
    chat = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", {})
    assert chat.render(turns).text.count("word ") == 100_000
    assert chat.source == "file"
    chat.close()
