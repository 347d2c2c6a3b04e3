"""A conversation with the real demo model, in a terminal emulator: what a person does in it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.support.tmux import kvchat_in_tmux, needs_tmux

pytestmark = needs_tmux


def test_a_conversation_from_the_first_key_to_the_next_day(tmp_path: Path) -> None:
    """Typed while it loads, sent, scrolled, stopped, continued, asked again, walked through its
    versions, edited, branched, quit and resumed: all of it is there afterwards. Then an answer
    fills a small context, and goes on in a larger one."""
    environ = {"KVCHAT_CONFIG_DIR": str(tmp_path), "KVCHAT_DATA_DIR": str(tmp_path)}
    # Its <|im_end|> is never chosen: an answer ends when it is stopped.
    flags = ("--demo", "--logit-bias", "2-inf", "--ctx")
    with kvchat_in_tmux(*flags, "2048", environ=environ, size=(80, 20)) as pane:
        pane.sees("Write a message", "Esc cancels", seconds=20)
        pane.write("Count from one to two hundred in words.")
        pane.press("Enter")
        pane.sees("Count from one", "writing")
        pane.until(lambda shown: "Count from one" not in shown)  # the screen is full of it
        pane.press("PageUp")
        pane.sees("below · Ctrl+End")
        pane.press("C-End")
        pane.press("Escape")
        pane.sees("stopped")
        pane.press("F8")
        pane.sees("writing")
        pane.press("Escape")
        pane.sees("stopped")
        pane.write("/again")
        pane.press("Enter")
        pane.sees("writing")
        pane.press("Escape")
        pane.sees("stopped", "‹ 2/2 ›")
        pane.press("C-PPage")
        pane.sees("‹ 1/2 ›")
        pane.press("C-NPage")
        pane.sees("‹ 2/2 ›")
        pane.press("C-Up", "K", "e")
        pane.sees("│ Count from one")
        pane.press("C-u")
        pane.write("Say hello.")
        pane.press("Enter")
        pane.sees("writing")
        pane.press("Escape")
        pane.sees("stopped", "Enter send")
        pane.press("C-Home")
        pane.sees("▌ Say hello.", "‹ 2/2 ›")
        pane.press("C-Up", "K", "left")
        pane.sees("Count from one", "‹ 1/2 ›")
        pane.press("b")
        pane.sees("goes on from here")
        pane.write("Only say: yes.")
        pane.press("Enter")
        pane.sees("writing")
        pane.press("C-q")
        pane.sees("ended 0", seconds=20)
    with sqlite3.connect(tmp_path / "conversations.db") as db:
        saved = db.execute("SELECT role, content, state FROM messages ORDER BY n").fetchall()
    assert [role for role, *_ in saved] == [
        "user", "assistant", "assistant", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert [state for *_, state in saved[1:3]] == ["stopped", "stopped"]
    with kvchat_in_tmux(*flags, "256", "--resume", environ=environ, size=(200, 50)) as pane:
        pane.sees("stopped", seconds=20)
        pane.press("C-b")
        pane.sees("Versions", "Say hello.", "Only say: yes.")
        pane.press("Escape")
        pane.sees("Enter send")
        pane.press("C-n")
        pane.sees("lists all keys")
        pane.write("Tell me a story.")
        pane.press("Enter")
        pane.sees("cut short: the context is full", "F7 makes room and goes on")
        pane.press("F7")
        pane.sees("A larger context")
        pane.press("g")
        pane.sees("writing", " of 1k")
        pane.press("C-q")
        pane.until(lambda shown: "ended" in shown, 20)
