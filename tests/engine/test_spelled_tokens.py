"""Control tokens that are spelled out in what was said are text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.engine.protocol import Message
from tuner.engine.spelled_tokens import SpelledTokens, joined

TOKENS = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "[INST]",
    "<a",
    "<ab",
    "<abcdef>",
    "<abcde",
    "#",
)
SPELLED = SpelledTokens(((token, True) for token in TOKENS), "")
TURN = "<|im_start|>user\n{}<|im_end|>"


def split(text: str) -> str:
    return SPELLED.split([Message("user", text)])[0].content


def test_where_a_prompt_is_cut() -> None:
    """Only what was said is read without special tokens, up to the nearest that are meant."""
    prompt = TURN.format(split("Why </s>?")) + TURN.format(split("hi"))
    assert list(SPELLED.fragments(prompt)) == [
        ("<|im_start|>", True), ("user\nWhy </s>?", False),
        ("<|im_end|><|im_start|>user\nhi<|im_end|>", True),
    ]  # fmt: skip


def test_a_prompt_that_spells_nothing_is_whole() -> None:
    prompt = TURN.format(split("a < b, <b>"))
    assert list(SPELLED.fragments(prompt)) == [(prompt, True)]
    assert list(SpelledTokens((), "").fragments(TURN)) == [(TURN, True)]


def test_user_defined_tokens_that_the_template_names() -> None:
    """They are tokens in any text: so they are cut in two. All else stays whole."""
    tokens = {"<|end|>": False, "<b>": False, "\n\n": False, "user": False, "<s>": True}
    spelled = SpelledTokens(tokens.items(), "{{ '<|end|>\n\nuser' }}")
    said = "<b>user</b>\n\n<|end|><s>"
    (message,) = spelled.split([Message("user", said)])
    assert list(spelled.fragments(message.content)) == [
        ("", True), ("<b>user</b>\n\n<", False), ("|end|><", False), ("s>", False), ("", True),
    ]  # fmt: skip


def test_thoughts_too_but_not_a_system_prompt() -> None:
    """That is its owner's, and makers ask for tokens there."""
    said = [Message("system", "<s>"), Message("assistant", "<s>", "</s>")]
    system, answer = SPELLED.split(said)
    assert system == said[0]
    assert (joined(answer.content), joined(answer.reasoning)) == ("<s>", "</s>")
    assert not any(token in answer.content + answer.reasoning for token in TOKENS[:2])


@pytest.mark.parametrize("text", ["<a", "<abcdef>", "<<s>s>", "[INST][INST]", "<s></s>"])
def test_no_token_is_left(text: str) -> None:
    assert not any(token in split(text) for token in TOKENS[:-1])
    assert joined(split(text)) == text


@given(st.lists(st.sampled_from([*TOKENS, *"<>ab|[/ \n"]), max_size=12).map("".join))
def test_nothing_is_lost(text: str) -> None:
    pieces = list(SPELLED.fragments(f"<s>{split(text)}</s>"))
    assert "".join(piece for piece, _ in pieces) == f"<s>{text}</s>"
    assert not any(token in split(text) for token in TOKENS[:-1])
