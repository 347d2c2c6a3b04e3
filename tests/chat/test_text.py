"""The parts of the chat that are plain functions of text."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tui.answering.conversation import Chat, title_of
from tui.answering.figures import Pace, figures
from tui.status import Status, compose, gauge
from tui.storage import StoredMessage
from tui.widgets.reading.segments import FENCE_LINES_MAX, Segmenter
from tuner.cells import cells
from tuner.units import GIB, MIB, tokens_text

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

WHOLE = Status(
    "SmolLM2-135M-Instruct", "41/41 layers on GPU · K q8_0 V q8_0 · ctx 16384", 16384, 1234,
    (int(18.2 * GIB), 24 * GIB), 41.23, "high", (90 * MIB, 1200 * MIB), (9 * GIB, 64 * GIB), 71,
    213.4, "spilling",
)  # fmt: skip


def test_status_says_everything_where_there_is_room() -> None:
    assert compose(WHOLE, 300) == (
        "! spilling · SmolLM2-135M-Instruct · 41/41 layers on GPU · K q8_0 V q8_0 · thinking high"
        " · █░░░░░░░ 1.2k of 16k, 90 MiB of 1.2 GiB · VRAM ██████░░ 18.2 of 24.0 GiB"
        " · RAM █░░░░░░░ 9.0 of 64.0 GiB · 71 °C 213 W · 41 t/s"
    )


@pytest.mark.parametrize(
    ("width", "parts"),
    [
        (120, ("! spilling", "SmolLM2", "41/41 layers", "█░░░░░░░ 1.2k of 16k", "VRAM", "41 t/s")),
        (80, ("! spilling", "SmolLM2", "1.2k of 16k", "18.2 of 24.0 GiB", "41 t/s")),
        (60, ("! spilling", "SmolLM2", "1.2k of 16k", "41 t/s")),
        (25, ("! spilling", "1.2k of 16k")),
        (10, ("! spilling",)),
    ],
)
def test_status_keeps_what_matters(width: int, parts: tuple[str, ...]) -> None:
    for part in parts:
        assert part in compose(WHOLE, width)


@pytest.mark.parametrize("width", range(0, 240))
def test_status_never_cuts_a_number(width: int) -> None:
    """At every width the line fits, and each number in it is one of the whole ones."""
    line = compose(WHOLE, width)
    assert cells(line) <= width
    whole = {word.rstrip(",") for word in compose(WHOLE, 300).split()} | {"8%"}
    assert {word.rstrip(",") for word in line.split() if word[0].isdigit()} <= whole


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (1023, "1,023"), (1024, "1k"), (12_146, "11.9k"), (131_072, "128k"),
     (1 << 20, "1,024k")],
)  # fmt: skip
def test_tokens_are_told_as_contexts_are(n: int, text: str) -> None:
    assert tokens_text(n) == text


def test_gauge() -> None:
    assert gauge(0, 100) == "░░░░░░░░"
    assert gauge(1, 100000) == "█░░░░░░░"  # something is used
    assert gauge(100, 100) == "████████"
    assert gauge(300, 100) == "████████"


# ---------------------------------------------------------------- how an answer came


def test_the_speed_of_now_is_that_of_the_last_seconds() -> None:
    """Not of the whole answer, and nothing before there is enough of it."""
    now = 0.0
    pace = Pace(lambda: now)
    assert pace.tps is None
    pace.note(10)
    assert pace.tps is None
    for _ in range(10):
        now += 1.0
        pace.note(round(10 + 100 * now))
    assert pace.tps == pytest.approx(100)
    fast = 10 + 100 * now
    for step in range(1, 6):
        now += 1.0
        pace.note(round(fast + 10 * step))
    assert pace.tps == pytest.approx(10)


def test_the_figures_of_an_answer_are_what_is_known_of_it() -> None:
    answer = StoredMessage("a", None, "assistant", "Yes.", 0.0)
    assert figures(answer) == ""
    assert figures(replace(answer, n_tokens=1)) == "1 token"
    full = replace(
        answer, n_tokens=412, tokens_per_second=34.2, first_seconds=0.61, n_prompt=12_146,
        n_reused=11_900,
    )  # fmt: skip
    assert figures(full) == "412 tokens · 34 t/s · first word 0.6 s · read 246 new of 12,146"


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
