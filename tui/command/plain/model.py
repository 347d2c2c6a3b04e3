"""The model of the chat in lines: whether it is there, and how far a load of it is."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

from tui.answering import advice, launching
from tui.command.output import PROGRESS_SECONDS, complain
from tui.command.pace import Pace, quarter
from tui.command.plain.commands import Commands
from tui.command.plain.keyboard import STOP, Keyboard, Left
from tui.ports import LaunchEvent, ModelLauncher, Planned, Ready, Retry, RunningModel, Stage
from tuner.engine.patience import STILL_SECONDS
from tuner.errors import ExitCode, KvchatError
from tuner.safe_text import one_line

LOOK_SECONDS = 0.05  # between two looks at what a thread has told
_STILL = 10  # seconds of which a standstill is told in multiples


class Model:
    """Loads in a thread, says how far that is, and cancels it at Ctrl+C."""

    def __init__(
        self, launcher: ModelLauncher, keyboard: Keyboard, first: Callable[[], object] | None = None
    ):
        """`first`: what a load waits for, in its thread."""
        self.launcher = launcher
        self.running: RunningModel | None = None  # the last that was loaded, dead or not
        self.ready = False  # it answers
        self.rests = False  # its process has ended, and the next question starts it again
        self._first = first
        self._keyboard = keyboard
        self._error: KvchatError | None = None  # of the first load, where it failed

    @property
    def exit_code(self) -> ExitCode:
        """Of leaving now: that of a load that failed where there never was a model."""
        if self.running is not None:
            return ExitCode.OK
        return self._error.exit_code if self._error is not None else ExitCode.INTERRUPTED

    def load(self, load: Callable[[], Iterator[LaunchEvent]] | None = None) -> bool:
        """Until the model is there, or a sentence said why not. `load`: another way than planning
        and loading. Raises Left."""
        self.ready, self.rests, self._error = False, False, None
        told: queue.SimpleQueue[LaunchEvent | launching.Failed] = queue.SimpleQueue()

        def follow() -> None:
            if self._first is not None:
                self._first()
            for event in launching.events(load or self.launcher.start):
                told.put(event)

        threading.Thread(target=follow, daemon=True, name="load").start()
        pace, stage, cancelled = Pace(PROGRESS_SECONDS), Stage("loading"), False
        pace.due(line := f"loading {one_line(self.launcher.path.name)}", time.monotonic())
        complain(line)
        while True:
            if self._keyboard.left or (cancelled and self._keyboard.interrupted):
                raise Left
            if self._keyboard.interrupted:
                cancelled = True
                self.launcher.cancel()
                complain(f"cancelling; {STOP} again leaves")
            if pace.due(line := self._doing(stage), time.monotonic()):
                complain(line)
            try:
                event = told.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            match event:
                case Stage():
                    stage = event
                case Retry(reason=reason):
                    complain(reason)
                case Planned():
                    pass  # what it comes to is said at the end, and by /fit
                case Ready(running=running):
                    self.running, self.ready = running, True
                    return True
                case launching.Failed(error=error):
                    self._error = error if self.running is None else None
                    say(advice.not_loaded(error, Commands()))
                    return False

    def _doing(self, stage: Stage) -> str:
        done = "" if stage.fraction is None else f" {quarter(stage.fraction)}"
        still = int(self.launcher.still)
        waits = f", not got on for {still // _STILL * _STILL} s" if still >= STILL_SECONDS else ""
        return f"{stage.text}{done}{waits}"


def say(text: str) -> None:
    """A text of several lines, each by itself."""
    for line in text.split("\n"):
        complain(line)
