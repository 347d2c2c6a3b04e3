"""A prompt is there at once: what its drawing does not need is imported after it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("terminals of POSIX", allow_module_level=True)

from tests.support.terminal import kvchat

# The planner and what it measures belong to the thread that loads, a screen to the key that opens
# it, a parser to the first answer.
LATER = (
    "tui.command.explain", "tui.screens.branches", "tui.screens.compare", "tui.screens.context",
    "tui.screens.conversations", "tui.screens.details", "tui.screens.explorer",
    "tui.screens.history", "tui.screens.keys", "tui.screens.report", "tui.widgets.reading.markdown",
    "tuner.launch.loading", "tuner.machine.machine", "tuner.machine.measure",
    "tuner.memory.compute", "tuner.memory.estimator", "tuner.planning", "tuner.profiles",
    "tuner.report.text", "tuner.tuning", "gguf", "importlib.metadata", "jinja2", "llama_cpp",
    "markdown_it", "numpy", "plotext", "psutil", "pygments.lexers", "pynvml",
)  # fmt: skip
NOTED = """
from pathlib import Path
from textual.drivers.linux_driver import LinuxDriver
draw, note = LinuxDriver.write, Path(NOTE)
def write(self, data):
    if "Write a message" in data and not note.exists():
        names = "\\n".join(sys.modules)
        note.with_suffix(".part").write_text(names)
        note.with_suffix(".part").rename(note)
    draw(self, data)
LinuxDriver.write = write
"""


def test_the_prompt_is_drawn_before_the_planner_is_read(tiny_model: Path, tmp_path: Path) -> None:
    """And all the same a question is answered."""
    note = tmp_path / "modules"
    with kvchat(str(tiny_model), before=NOTED.replace("NOTE", repr(str(note)))) as chat:
        chat.until(note.exists)
        imported = note.read_text().split("\n")
        chat.press("Hello\r")
        chat.until(lambda: "Hello,world." in chat.shown)
    early = [name for name in imported if f"{name}.".startswith(tuple(f"{x}." for x in LATER))]
    assert not early
    assert "tui.screens.chat" in imported
