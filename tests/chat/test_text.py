"""The parts of the chat that are plain functions of text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tui.answering.conversation import Chat, title_of
from tui.status import Status, compose, gauge
from tui.widgets.reading.segments import FENCE_LINES_MAX, Segmenter
from tuner.units import GIB

# ---------------------------------------------------------------- segments


def cut(text: str, size: int = 7) -> list[str]:
    """The segments of a text that comes in pieces of `size` characters."""
    segmenter = Segmenter()
    segments: list[str] = []
    for at in range(0, len(text), size):
        for piece in segmenter.feed(text[at : at + size]):
            if piece.fresh:
                segments.append("")
            segments[-1] += piece.text
    for piece in segmenter.feed("", final=True):
        if piece.fresh:
            segments.append("")
        segments[-1] += piece.text
    return segments


@given(st.text(alphabet="ab`~-*1. |#\n\r ", max_size=300), st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_no_text_is_lost_or_changed(text: str, size: int) -> None:
    """However it is cut and fed, the segments are the text; only a fence that is continued has its
    opening line again."""
    joined = "".join(cut(text, size))
    assert joined == text or ("```" in text or "~~~" in text)
    assert len(joined) >= len(text)


def test_a_long_answer_is_cut_between_blocks() -> None:
    text = "".join(f"Paragraph {n} with some words in it.\n\n" for n in range(200))
    segments = cut(text)
    assert "".join(segments) == text
    assert max(map(len, segments)) < 1400
    assert all(segment.startswith("Paragraph") for segment in segments)


def test_a_long_fence_is_bounded() -> None:
    """1,000 lines of code never make a segment that is costly to highlight again."""
    text = "```python\n" + "".join(f"    line({n})\n" for n in range(1000)) + "```\nAfter.\n"
    segments = cut(text, 20)
    assert all(segment.startswith("```python\n") for segment in segments[:-1])
    assert max(segment.count("\n") for segment in segments) <= FENCE_LINES_MAX + 2
    code = "".join(segments).replace("```python\n", "").replace("```\nAfter.\n", "")
    assert code == "".join(f"    line({n})\n" for n in range(1000))
    assert segments[-1] == "After.\n"


def test_a_list_is_cut_between_its_items() -> None:
    text = "".join(f"- item {n} with a few words\n  - nested {n}\n" for n in range(50))
    segments = cut(text)
    assert "".join(segments) == text
    assert len(segments) > 5
    assert all(segment.startswith("- item") for segment in segments)


def test_a_fence_in_a_list_is_not_cut_out_of_it() -> None:
    text = "1. Do this:\n   ```sh\n   run\n   ```\n2. Then that.\n"
    assert cut(text) == [text]


def test_a_line_without_end_is_bounded() -> None:
    """A model that repeats itself for ever on one line."""
    segments = cut("again and " * 2000, 100)
    assert "".join(segments) == "again and " * 2000
    assert max(map(len, segments)) < 2500


def test_a_table_row_comes_whole() -> None:
    """Half a row would be drawn as another table, and the whole table again for each word."""
    segmenter = Segmenter()
    assert segmenter.feed("| a long enough cell | anoth") == []
    assert segmenter.feed("er |\n")[0].text == "| a long enough cell | another |\n"


# ---------------------------------------------------------------- status line

FULL = Status(
    "SmolLM2-135M-Instruct", "41/41 layers on GPU · K q8_0 V q8_0 · ctx 16384", 16384, 1234,
    (int(18.2 * GIB), 24 * GIB), 41.23,
)  # fmt: skip


def test_status_at_200_columns_says_everything() -> None:
    assert compose(FULL, 200) == (
        "SmolLM2-135M-Instruct · 41/41 layers on GPU · K q8_0 V q8_0"
        " · context 1,234/16,384 ━─────── 8% · VRAM 18.2/24.0 GiB · 41.2 tok/s"
    )


def test_status_at_80_columns_keeps_what_matters() -> None:
    assert (
        compose(FULL, 80)
        == ("SmolLM2-135M-Instr… · 41/41 layers on GPU · 1,234/16,384 8% · 41.2 tok/s")
        or len(compose(FULL, 80)) <= 80
    )
    for part in ("SmolLM2", "1,234/16,384", "41.2 tok/s"):
        assert part in compose(FULL, 80)


@pytest.mark.parametrize("width", range(0, 200))
def test_status_never_cuts_a_number(width: int) -> None:
    """At every width the line fits, and each number in it is one of the whole ones."""
    line = compose(FULL, width)
    assert len(line) <= width
    whole = set(compose(FULL, 200).split()) | {"18.2/24"}
    for word in line.split():
        if word[0].isdigit():
            assert word in whole


def test_gauge() -> None:
    assert gauge(0, 100) == "────────"
    assert gauge(1, 100000) == "━───────"  # something is used
    assert gauge(100, 100) == "━━━━━━━━"
    assert gauge(300, 100) == "━━━━━━━━"


# ---------------------------------------------------------------- the conversation


def test_title_is_one_short_line() -> None:
    assert title_of("  Hello\nworld ") == "Hello world"
    assert len(title_of("word " * 50)) <= 60


def test_roles_alternate_in_the_prompt() -> None:
    """A question whose answer failed and the next one reach the model as one message: many
    templates refuse two in a row."""
    chat = Chat("Be brief.")
    chat.add_user("One")
    chat.add_user("Two")
    assert [(m.role, m.content) for m in chat.prompt()] == [
        ("system", "Be brief."),
        ("user", "One\n\nTwo"),
    ]
