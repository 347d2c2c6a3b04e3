"""The chat templates of the families that people run: called as each wants to be, given what it
reads, and offering what it has."""

from __future__ import annotations

import pytest

from tests.support.chat_templates import CONVERSATION, FAMILIES, TOKENS, Family, InThisProcess
from tuner.engine import templates
from tuner.engine.protocol import Message
from tuner.engine.templates import ChatTemplate


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def loaded(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Family, ChatTemplate]:
    monkeypatch.setattr(templates, "TemplateProcess", InThisProcess)
    return request.param, ChatTemplate(request.param.source, TOKENS)


def test_whole_conversation(loaded: tuple[Family, ChatTemplate]) -> None:
    """System prompt, question, answer, question, in the model's own words, with nothing to warn
    of; and without a system prompt."""
    family, chat = loaded
    assert chat.source == "file"
    assert chat.warnings == ()
    rendered = chat.render(CONVERSATION)
    assert rendered.text == family.prompt
    assert (rendered.source, rendered.notice) == ("file", "")
    without = chat.render(CONVERSATION[1:])
    assert without.source == "file"
    assert "Be kind." not in without.text
    assert all(m.content in without.text for m in CONVERSATION[1:])


def test_thinking(loaded: tuple[Family, ChatTemplate]) -> None:
    """The levels that a template offers are found by trying, each with a prompt of its own; one
    that it has by itself is known; a level that it lacks is taken as the nearest."""
    family, chat = loaded
    assert chat.thinking.offered == family.think
    assert chat.thinking.usual == family.usual
    asked = (Message("user", "Hi?"),)
    texts = {level: chat.render(asked, think=level).text for level in family.think}
    assert len(set(texts.values())) == len(family.think)
    if family.usual:
        assert texts[family.usual] == chat.render(asked).text
    for level, end in family.ends:
        assert chat.render(CONVERSATION, think=level).text.endswith(end)
