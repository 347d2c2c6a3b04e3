"""Text measured and cut in the cells of a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tuner.cells import cells, clip, pad, wrap

TEXT = st.text(
    st.sampled_from("ab ,-_öß模型🙂한e\u0301\u200b\u00a0")
    | st.characters(categories=("L", "N", "P")),
    max_size=60,
)


def test_a_wide_character_takes_two_cells_and_a_mark_none() -> None:
    assert [cells(text) for text in ("abc", "模型", "🙂", "e\u0301", "ö", "")] == [3, 4, 2, 1, 1, 0]


def test_the_screens_measure_alike() -> None:
    """The report is laid out here and drawn by Textual there."""
    for text in ("größe", "模型", "한국어", "🙂", "█▓▒░×·", "e\u0301"):
        assert cells(text) == cell_len(text)


@given(text=TEXT, width=st.integers(1, 30))
def test_nothing_that_is_cut_or_wrapped_is_too_wide(text: str, width: int) -> None:
    assert cells(clip(text, width)) <= width
    assert cells(pad(clip(text, width), width)) == width
    for line in wrap(text, max(width, 2)):
        assert cells(line) <= max(width, 2)


@given(text=TEXT, width=st.integers(2, 30))
def test_wrapping_loses_nothing_but_spaces(text: str, width: int) -> None:
    assert "".join(wrap(text, width)).replace(" ", "") == text.replace(" ", "")


def test_words_stay_whole_where_they_can() -> None:
    assert wrap("a long word: extraordinary", 13) == ["a long word:", "extraordinary"]
    assert wrap("extraordinary", 6) == ["extrao", "rdinar", "y"]
    assert wrap("", 5) == [""]
    assert clip("a name that is long", 10) == "a name ..."
    assert pad("a", 3, right=True) == "  a"
