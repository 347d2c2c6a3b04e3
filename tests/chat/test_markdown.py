"""A streamed answer looks like the same answer read from the disk."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult
from textual.containers import VerticalScroll

from tests.support.chat_fakes import until
from tui.widgets.markdown import MarkdownText

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

```
no language
"""
    + "".join(f"line {n}\n" for n in range(30))
    + "```\n\nThe end.\n"
)
SIZE = (80, 140)


class Sheet(App[None]):
    CSS_PATH = ["../../tui/styles/messages.tcss"]  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sheet = MarkdownText(text)

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield self.sheet

    def drawn(self) -> list[str]:
        strips = self.screen._compositor.render_strips()
        return ["".join(s.text for s in strip).rstrip() for strip in strips]


WHOLE: list[str] = []  # the document as it is drawn in one go


async def drawn_whole() -> list[str]:
    if not WHOLE:
        app = Sheet(DOCUMENT)
        async with app.run_test(size=SIZE) as pilot:
            sheet = app.sheet  # its segments are parsed in threads
            await until(pilot, lambda: all(segment.children for segment in sheet.children))
            await pilot.pause()
            WHOLE[:] = app.drawn()
        assert any("return x + 1" in row for row in WHOLE)
        assert any("<div>html</div>" in row for row in WHOLE)
        assert any("The end." in row for row in WHOLE)
    return WHOLE


@pytest.mark.parametrize("size", [3, 17, 80, 500])
async def test_streamed_is_drawn_as_the_whole(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the pieces, the same rows are on the screen in the end. The fence is cut twice."""
    monkeypatch.setattr("tui.widgets.segments.FENCE_LINES", 10)
    monkeypatch.setattr("tui.widgets.segments.FENCE_LINES_MAX", 15)
    whole = await drawn_whole()
    app = Sheet("")
    async with app.run_test(size=SIZE) as pilot:
        for at in range(0, len(DOCUMENT), size):
            await app.sheet.feed(DOCUMENT[at : at + size])
        await app.sheet.feed("", final=True)
        await pilot.pause()
        if app.drawn() != whole:  # a layout may be on its way
            await pilot.pause(0.5)
        assert app.drawn() == whole


async def test_a_fence_right_below_a_table() -> None:
    """The backticks are a row of the table until the third one comes."""
    app = Sheet("")
    async with app.run_test(size=(80, 40)) as pilot:
        for piece in ("| a |\n|---|\n| 1 |\n", "`", "`", "`", "\ncode\n```\n"):
            await app.sheet.feed(piece)
        await app.sheet.feed("", final=True)
        await until(pilot, lambda: any("code" in row for row in app.drawn()))
        assert not any("`" in row for row in app.drawn())
