"""Markdown as rows: plain functions of a text and a width."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.style import Style

from tui.storage import StoredMessage
from tui.widgets.entries import Entry
from tui.widgets.reading.code import coloured
from tui.widgets.reading.lines import Block
from tui.widgets.reading.markdown import parse
from tui.widgets.reading.maths import readable
from tui.widgets.reading.rows import Frame, rows_of
from tui.widgets.reading.wrapping import wrap

DOCUMENT = (
    """\
# A title

Some *text* with `code`, Vec<String> and [a link](https://example.org).
And a second line.

```python
def f(x):
    return x + 1

print(f(2))
```

1. First
   with more

   ```sh
   run it
   ```
2. Second
   - nested
   - twice
3. Third

| a | b |
|---|---|
| 1 | 2 |
| 3 | [/x] |

> A quote
> of two lines

<div>html</div>

- x
- y

| long | table |
|:-:|--:|
"""
    + "".join(f"| row {n} | {n * n} |\n" for n in range(25))
    + "\n```\nno language\n"
    + "".join(f"line {n}\n" for n in range(30))
    + "```\n\nThe end.\n"
)


def plain_look(*names: str) -> Style:
    return Style()


def drawn(text: str, width: int = 40, wrap_code: bool = False, view: int = 0) -> list[str]:
    """The rows of a text, without a margin."""
    frame = Frame(view or width, width, 0, wrap_code)
    rows, _ = rows_of(parse(text).lines, frame, plain_look)
    return [row.strip.text.rstrip() for row in rows][1:]


def entry_of(text: str, streamed: int = 0) -> Entry:
    """An answer, as it is read from the disk, or streamed in pieces of so many characters."""
    message = StoredMessage("m", None, "assistant", "" if streamed else text, 1.0)
    entry = Entry(1, message, lambda _: None)
    entry.streaming = bool(streamed)
    if streamed:
        for at in range(0, len(text), streamed):
            entry.feed(text[at : at + streamed])
        entry.feed("", final=True)
    return entry


def rows_of_entry(entry: Entry, width: int = 40) -> list[str]:
    frame = Frame(width + 4, width, 3)
    return [
        row.strip.text.rstrip() for part in entry.parts for row in part.drawn(frame, plain_look)
    ]


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("Roses are red\nViolets are blue", ["Roses are red", "Violets are blue"]),
        ("# Title\nText\n\n## Two\n\nMore", ["Title", "Text", "", "Two", "", "More"]),
        ("Here:\n- a\n  - b\n- c", ["Here:", "• a", "  • b", "• c"]),
        ("1. a\n\n   more\n2. b", ["1. a", "", "   more", "2. b"]),
        ("9. i\n10. j", ["9. i", "10. j"]),
        ("> a\n> > b", ["▎ a", "▎ ▎ b"]),
        ("- > q", ["• ▎ q"]),
        ("-\n- b", ["•", "• b"]),
        ("a\n---\nb\n***", ["a", "b", "─" * 40]),
        ("Vec<String> <b>t</b> &lt;", ["Vec<String> <b>t</b> <"]),
        ("[1]: http://example.org", ["[1]: http://example.org"]),
        ("*a* **b** ~~c~~ `d` ![e](f)", ["a b c d 🖼 e"]),
        ("`a\tb`", ["a   b"]),
        ("one\n\n\n\ntwo", ["one", "", "two"]),
    ],
)
def test_blocks(text: str, rows: list[str]) -> None:
    """Single newlines stay, blank lines are one row, marks are drawn and nothing is lost."""
    assert drawn(text) == rows


def test_code_has_its_language_and_its_length_and_one_row_around() -> None:
    rows = rows_of_entry(entry_of("a\n```rust\nfn main() {\n\tx\n}\n```\nb"), 30)
    assert [row[3:] for row in rows] == [
        "", "a", "", f"rust {'─' * 17} 3 lines", "fn main() {", "    x", "}", "─" * 30, "", "b",
    ]  # fmt: skip
    assert drawn("```\n```", 20)[0].startswith("─")
    assert drawn("    indented\n\nb") == ["indented", "", "b"]


def test_long_code_is_one_row_or_wrapped() -> None:
    """Whole in its row, of which the view shows a part; by the user's choice it is wrapped."""
    text = "```\n" + "x" * 50 + "\n```"
    assert drawn(text, 20)[1] == "x" * 50
    assert drawn(text, 20, wrap_code=True)[1:4] == ["x" * 20, "x" * 20, "x" * 10]


def test_a_table_is_aligned_without_a_rule_per_row() -> None:
    rows = drawn("| l | c | r |\n|:--|:-:|--:|\n| left | mid | 1 |\n| x | y | 1000 |")
    assert rows == [
        "l    │  c  │    r", "─────┼─────┼─────", "left │ mid │    1", "x    │  y  │ 1000",
    ]  # fmt: skip


def test_a_wide_table_wraps_its_widest_cells() -> None:
    """The widest columns give way, and the words of each cell stay in its column."""
    rows = drawn(f"| a | b |\n|---|---|\n| short | {'word ' * 12}|", 30)
    assert max(map(len, rows)) <= 30
    assert rows[2].startswith("short │ word")
    assert all(row.startswith("      │ word") for row in rows[3:])
    assert sum(row.count("word") for row in rows) == 12


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("\\(a+b\\)", "a+b"),
        ("so \\[x^2\\] is", "so x² is"),
        ("$$\\frac{a+b}{2}$$", "(a+b)/2"),
        ("$x_1$ and $5 or $10", "x₁ and $5 or $10"),
        ("$HOME/$PATH", "$HOME/$PATH"),
        ("`\\(a\\)`", "\\(a\\)"),
        ("\\(half", "(half"),
    ],
)
def test_maths_in_a_text(source: str, shown: str) -> None:
    assert drawn(source) == [shown]


def test_displayed_maths_is_no_list() -> None:
    assert drawn("\\[\na\n- b \\\\ c\n\\]\nd") == ["  a", "  - b", "  c", "", "d"]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (r"E = mc^2", "E = mc²"),
        (r"\sum_{i=1}^{n} i = \frac{n(n+1)}{2}", "∑ᵢ₌₁ⁿ i = n(n+1)/2"),
        (r"2\frac{a}{b} + \frac{c}{2}\frac{d}{\frac{e}{f}}", "2(a/b) + (c/2)(d/(e/f))"),
        (r"\sqrt{x^2+1} \sqrt[3]{y}", "√(x²+1) ∛y"),
        (r"x_{ij}^{T}\mathbf{v} \in \mathbb{R}^n", "xᵢⱼᵀv ∈ ℝⁿ"),
        (r"\left( \frac{1}{2} \right)", "( 1/2 )"),
        (r"\lim_{x \to \infty} f(x)", "lim_(x → ∞) f(x)"),
        (r"\foo{x} \bar{ab}", r"\foo{x} bar(ab)"),
        (r"\frac{1}", r"\frac{1}"),
        (r"\frac{1", r"\frac{1"),
        ("a \\", "a \\"),
    ],
)
def test_latex(source: str, shown: str) -> None:
    """Common maths in Unicode; what has no sign there, or no end yet, as it is written."""
    assert readable(source) == shown


@given(st.text(alphabet="ab12{}^_\\ &fracsqt$", max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_letter_of_maths_is_lost(source: str) -> None:
    """Whatever is written: a digit stays a digit, if a small one."""
    shown = readable(source)
    small = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", "01234567890123456789")
    digits = [char for char in source if char.isdigit()]
    assert [char for char in shown.translate(small) if char in "0123456789"] == digits


# ---------------------------------------------------------------- rows


@given(st.text(alphabet="ab 漢字é、.\U0001f600", max_size=80), st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_wrapping_loses_only_spaces(text: str, width: int) -> None:
    """Each row fits, or is one character that is wider than it; between rows there are spaces."""
    at = 0
    for start, end in wrap(text, width):
        assert not text[at:start].strip(" ")
        row = text[start:end].rstrip(" ")
        assert cell_len(row) <= width or len(row) == 1
        at = end
    assert not text[at:].strip(" ")


def test_a_row_knows_its_characters() -> None:
    """Of a line and, in a table, of each cell: by this the mouse selects."""
    text = "- one two three\n\n| a | b |\n|---|---|\n| c | d e f g |\n"
    lines = parse(text).lines
    rows, _ = rows_of(lines, Frame(14, 10, 2), plain_look)
    for row in rows:
        line = lines[row.line]
        for piece in row.pieces:
            shown = row.strip.crop(piece.column).text
            assert shown.startswith(line.text[piece.start : piece.end])


def test_an_unknown_language_is_not_guessed() -> None:
    assert coloured("def f(): pass", "") == [[]]
    assert coloured("def f(): pass", "no-such-language") == [[]]
    spans = coloured("def f():\n  return 1", "Python")
    assert [s.style for s in spans[0]][:2] == ["keyword", "function"]
    assert (spans[1][0].start, spans[1][0].end) == (2, 8)


# ---------------------------------------------------------------- entries


@pytest.mark.parametrize("size", [3, 17, 80, 500])
def test_streamed_is_drawn_as_the_whole(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the pieces, the same rows in the end. A fence and a table are cut twice."""
    for name, n in (("FENCE_LINES", 10), ("FENCE_LINES_MAX", 15), ("TABLE_ROWS", 10)):
        monkeypatch.setattr(f"tui.widgets.reading.segments.{name}", n)
    whole = entry_of(DOCUMENT)
    assert len([part for part in whole.parts if part.repeated]) >= 4
    assert rows_of_entry(entry_of(DOCUMENT, size)) == rows_of_entry(whole)
    rows = rows_of_entry(whole)
    assert sum("───── 31 lines" in row for row in rows) == 1
    assert sum("long" in row for row in rows) == 1


def test_rows_that_were_seen_while_it_streamed_are_made_again() -> None:
    """A part turns out to go on, a fence to have so many lines: as drawn in the end."""
    entry = entry_of("", 1)
    for at in range(0, len(DOCUMENT), 40):
        entry.feed(DOCUMENT[at : at + 40])
        rows_of_entry(entry)
    entry.feed("", final=True)
    assert rows_of_entry(entry) == rows_of_entry(entry_of(DOCUMENT))


def test_what_is_drawn_again_has_its_rows_from_before() -> None:
    """While a fence grows, only its last lines are new rows: the others need no painting."""
    entry = entry_of("", 1)
    frame = Frame(44, 40, 3)
    entry.feed("Text.\n\n```python\na = 1\nb = 2\nc = ")
    before = [row for part in entry.parts for row in part.drawn(frame, plain_look)]
    entry.feed("3\nd = 4\n")
    after = [row for part in entry.parts for row in part.drawn(frame, plain_look)]
    assert [row.strip.text.strip() for row in after[5:8]] == ["b = 2", "c = 3", "d = 4"]
    same = [n for n, (old, new) in enumerate(zip(before, after, strict=False)) if old is new]
    assert same == [0, 1, 4, 5], "the text, the first two lines of code"


def test_a_fence_right_below_a_table() -> None:
    """The backticks are a row of the table until the third one comes."""
    entry = entry_of("", 1)
    for piece in ("| a |\n|---|\n| 1 |\n", "`", "`", "`", "\ncode\n```\n"):
        entry.feed(piece)
        rows_of_entry(entry)
    entry.feed("", final=True)
    rows = rows_of_entry(entry)
    assert "   code" in rows
    assert not any("`" in row for row in rows)


def test_the_parts_are_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.widgets.reading.segments.FENCE_LINES", 10)
    for entry in (entry_of(DOCUMENT), entry_of(DOCUMENT, 7)):
        assert "".join(part.source for part in entry.parts) == DOCUMENT


def test_blocks_that_were_cut_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.widgets.reading.segments.FENCE_LINES", 10)
    entry = entry_of(DOCUMENT)
    lines = "\n".join(["no language", *(f"line {n}" for n in range(30))])
    assert entry.blocks() == [
        Block("python", "def f(x):\n    return x + 1\n\nprint(f(2))"),
        Block("sh", "run it"),
        Block("", lines),
    ]
    found: Sequence[int | None] = [
        entry.block_of(part, line)
        for part in entry.parts
        for line in part.parsed().lines
        if line.text in ("print(f(2))", "run it", "line 0", "line 29", "The end.")
    ]
    assert found == [0, 1, 2, 2, None]


def test_what_a_message_has_beside_its_text() -> None:
    message = StoredMessage("m", None, "assistant", "Yes.", 1.0, "stopped", reasoning="a b\n\nc")
    entry = Entry(1, message, lambda _: None)
    entry.set_footer("‹ 2/3 ›")
    assert rows_of_entry(entry) == [
        "", "   ▸ thought · 3 words", "", "   Yes.", "", "   stopped · ‹ 2/3 ›",
    ]  # fmt: skip
    entry.fold()
    assert rows_of_entry(entry)[:5] == ["", "   ▾ thought · 3 words", "", "   a b", ""]
    entry.set_footer("")
    entry.update_message(StoredMessage("m", None, "assistant", "Yes.", 1.0))
    assert rows_of_entry(entry)[-1] == "   Yes."


def test_a_long_question_is_drawn_in_parts() -> None:
    """200 kB that were pasted are not put into rows before they are to be seen."""
    text = "".join(f"line {n} of a paste\n" for n in range(4000))
    entry = Entry(1, StoredMessage("m", None, "user", text, 1.0), lambda _: None)
    assert len(entry.parts) > 30
    assert "".join(part.source for part in entry.parts) == text
    rows = [row for part in entry.parts[:2] for row in part.drawn(Frame(44, 40, 3), plain_look)]
    assert [row.strip.text.rstrip() for row in rows[:3]] == [
        "", " ▌ line 0 of a paste", " ▌ line 1 of a paste",
    ]  # fmt: skip
