"""What the fit explorer computes, in threads: settings weighed, what kvchat would choose, what each
context costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.message import Message
from textual.screen import Screen

from tui.answering.advice import in_words
from tui.widgets.newest import Newest
from tuner.errors import KvchatError
from tuner.settings import Settings

if TYPE_CHECKING:
    from tui.ports import Candidate, Explorer, Plan


class Exploring:
    """Tells the screen by messages. Of settings to be weighed only the newest are: a key that is
    held down waits for nothing."""

    @dataclass(eq=False)
    class Opened(Message):
        """There is an explorer."""

        explorer: Explorer

    @dataclass(eq=False)
    class Failed(Message):
        """There is none."""

        error: KvchatError

    @dataclass(eq=False)
    class Weighed(Message):
        """What settings give; `exact`: by their exact footprint, which nothing follows."""

        settings: Settings
        candidate: Candidate
        missing: str
        exact: bool

    @dataclass(eq=False)
    class Surveyed(Message):
        """What kvchat would choose, and what else there is."""

        plan: Plan

    @dataclass(eq=False)
    class Reached(Message):
        """The best plan for one more context."""

        candidate: Candidate

    def __init__(self, screen: Screen[Any]):
        self._screen = screen
        self._ended = False
        self._newest: Newest[tuple[Explorer, Settings]] = Newest(screen, self._weigh, "weigh")

    def open(self, make: Callable[[], Explorer]) -> None:
        """Makes the explorer; then looks at what there is beside the settings that are shown."""
        self._screen.run_worker(partial(self._open, make), thread=True, group="survey")

    def end(self) -> None:
        """Nobody wants to know any more."""
        self._ended = True

    def weigh(self, explorer: Explorer, settings: Settings) -> None:
        """Weighs these in place of what still waits."""
        self._newest.ask((explorer, settings))

    def _open(self, make: Callable[[], Explorer]) -> None:
        try:
            explorer = make()
            self._tell(self.Opened(explorer))
            if not self._ended:
                self._tell(self.Surveyed(explorer.survey()))
            for candidate in explorer.frontier():
                if self._ended:
                    return
                self._tell(self.Reached(candidate))
        except Exception as error:
            self._tell(self.Failed(in_words(error, "This cannot be explored")))

    def _weigh(self, wanted: tuple[Explorer, Settings]) -> None:
        explorer, settings = wanted
        if self._ended:
            return
        try:
            quick = explorer.weighed(settings)
            self._tell(self.Weighed(settings, quick, explorer.missing(quick), False))
            if not self._newest.overtaken:
                exact = explorer.exactly(quick)
                self._tell(self.Weighed(settings, exact, explorer.missing(exact), True))
        except Exception as error:
            self._tell(self.Failed(in_words(error, "This cannot be explored")))

    def _tell(self, message: Message) -> None:
        if not self._ended:
            self._screen.post_message(message)
