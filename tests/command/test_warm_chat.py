"""A conversation with the real demo model that is left, opened again, and outlives its model."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import psutil

from tests.support.tmux import Pane, kvchat_in_tmux, needs_tmux

pytestmark = needs_tmux

QUESTION = "What have these in common: " + ", ".join(f"thing {n}" for n in range(80))


def the_worker(pane: Pane) -> psutil.Process:
    """The model process."""
    shell = psutil.Process(int(pane.run("list-panes", "-F", "#{pane_pid}")))
    children = shell.children(recursive=True)
    (found,) = [each for each in children if "tuner.engine.worker" in " ".join(each.cmdline())]
    return found


def turns(log: Path) -> list[tuple[int, int]]:
    """Tokens that were reused, and all of the prompt, of each turn."""
    told = re.findall(r"reused ([\d,]+) of ([\d,]+) tokens", log.read_text())
    return [(int(reused.replace(",", "")), int(whole.replace(",", ""))) for reused, whole in told]


def ask(pane: Pane, text: str) -> None:
    """Asks, and stops the answer once it has begun."""
    pane.write(text)
    pane.press("Enter")
    pane.sees("writing")
    pane.press("Escape")
    pane.sees("stopped", "Enter send")


def test_nothing_is_read_twice_and_a_death_takes_nothing_along(tmp_path: Path) -> None:
    """Opened again, all but the new question is reused; the process is killed in mid-answer, comes
    back by itself with what was saved, and goes on."""
    folders = ("CONFIG", "DATA", "LOG")
    environ = {f"KVCHAT_{name}_DIR": str(tmp_path) for name in folders}
    # Its <|im_end|> is never chosen: an answer ends when it is stopped.
    flags = ("--demo", "--ctx", "1024", "--logit-bias", "2-inf")
    with kvchat_in_tmux(*flags, environ=environ) as pane:
        pane.sees("Enter send")
        ask(pane, QUESTION)
        pane.press("C-q")
        pane.sees("ended 0", seconds=20)
    (state,) = (tmp_path / "states").iterdir()
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    with kvchat_in_tmux(*flags, "--resume", environ=environ, size=(100, 30)) as pane:
        pane.sees("Enter send")
        ask(pane, "And?")
        reused, whole = turns(tmp_path / "engine.log")[-1]
        assert reused > 300
        assert whole - reused < 40
        pane.press("F2")
        pane.sees(f"Last turn: reused {reused:,} of {whole:,} tokens; {whole - reused} new.")
        pane.press("F2")
        pane.sees("Write a message")
        pane.write("Tell me more.")
        pane.press("Enter")
        pane.sees("Tell me more", "writing")
        the_worker(pane).kill()
        pane.sees("SIGKILL", "loaded again", "F8 goes on")
        pane.press("F8")
        pane.sees("writing")
        pane.press("Escape")
        pane.sees("stopped", "Enter send")
        assert turns(tmp_path / "engine.log")[-1][0] >= reused  # what was saved when it was left
        pane.press("C-q")
        pane.sees("ended 0", seconds=20)
