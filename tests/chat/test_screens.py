"""The chat's screen at four sizes, as text: what one sees, held against files in `screens/`.

    KVCHAT_UPDATE_SCREENS=1 python -m pytest tests/chat/test_screens.py

writes them; what has changed is to be read in the diff. One has the styles as well: below a row, a
letter for each of its cells, explained at the end; where all of a row is plain there is none.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest
from rich.style import Style
from textual.pilot import Pilot

from tests.support.chat_fakes import FakeRunning, chat_screen, make_app, shown, until
from tui.storage import Conversation, Conversations, StoredMessage
from tuner.machine.nvidia import Reading
from tuner.machine.vitals import Vitals
from tuner.units import GIB

FOLDER = Path(__file__).parent / "screens"
SIZES = ((60, 16), (80, 24), (120, 40), (200, 50))
STYLED = (80, 24)
ANSWER = """Sunlight holds **all** colours; air scatters the *short* waves, by `1 / wavelength^4`:

1. violet and blue go everywhere,
2. red goes straight on.

| colour | wavelength | scattered |
|:-------|-----------:|:---------:|
| violet |     380 nm |   strong  |
| red    |     740 nm |   weak    |

```python
def rayleigh(wavelength: float) -> float:
    return 1 / wavelength**4  # as seen from below
```

> So the sky is blue, and the evening red."""


def conversation(store: Conversations) -> str:
    """Two turns as they are saved, with all that is measured of them."""
    said = [
        StoredMessage("q1", None, "user", "Say hello.", 1.0),
        StoredMessage("a1", "q1", "assistant", "Hello.", 2.0, n_ctx_used=9),
        StoredMessage("q2", "a1", "user", "Why is the sky blue? With a table and code.", 3.0),
        StoredMessage(
            "a2", "q2", "assistant", ANSWER, 4.0,
            reasoning="They want a table. And code.", thought_seconds=4.0, n_tokens=212,
            n_prompt=31, n_reused=9, n_ctx_used=243, tokens_per_second=34.2, first_seconds=0.6,
        ),
    ]  # fmt: skip
    store.save(Conversation("c1", "Say hello.", 1.0, 4.0, head="a2"), said)
    return "c1"


def styled(pilot: Pilot[None]) -> str:
    """The rows, with the styles of their cells."""
    rows = pilot.app.screen._compositor.render_strips()
    styles = (segment.style or Style() for row in rows for segment in row)
    plain, *others = dict.fromkeys(_named(style) for style in styles)
    letters = {plain: " ", **dict(zip(others, map(_letter, count()), strict=False))}
    lines: list[str] = []
    for row in rows:
        lines.append(row.text.rstrip())
        below = "".join(letters[_named(s.style or Style())] * s.cell_length for s in row).rstrip()
        lines += [below] if below else []
    legend = [f"{letter!r}: {name}" for name, letter in letters.items()]
    return "\n".join([*lines, "", *legend])


def _letter(n: int) -> str:
    return "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[n]


def _named(style: Style) -> str:
    """A style without what is no look."""
    return str(style.without_color + Style(color=style.color, bgcolor=style.bgcolor)).replace(
        "not ", "no "
    )


def held_against(name: str, text: str) -> None:
    """Writes the file, where that is asked for, or says how the text differs from it."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get("KVCHAT_UPDATE_SCREENS"):
        path.write_text(f"{text}\n", encoding="utf-8")
    assert f"{text}\n" == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
async def test_the_chat_looks_as_it_did(store: Conversations, size: tuple[int, int]) -> None:
    gpu = Reading(18 * GIB, 24 * GIB, 64, 213.4)
    running = FakeRunning(now=Vitals({"GPU0": gpu}, (9 * GIB, 64 * GIB)))
    app = make_app(running, store, resume=conversation(store))
    async with app.run_test(size=size) as pilot:
        screen = await chat_screen(pilot)
        used = running.count_tokens(screen.chat.prompt())

        def measured() -> bool:
            status = screen._lines.status.status
            return status is not None and status.ram is not None and status.n_ctx_used == used

        await until(pilot, measured)
        await pilot.pause()
        text = "\n".join(row.rstrip() for row in shown(pilot).splitlines())
        held_against(f"chat-{size[0]}x{size[1]}", text)
        if size == STYLED:
            held_against(f"chat-{size[0]}x{size[1]}-styles", styled(pilot))
