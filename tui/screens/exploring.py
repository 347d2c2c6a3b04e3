"""What the fit explorer computes, in threads: settings weighed, what kvchat would choose, what each
context costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from textual.message import Message
from textual.screen import Screen

from tui.ports import Candidate, Explorer, Plan
from tui.widgets.newest import Newest
from tuner.errors import EngineError, KvchatError
from tuner.settings import Settings


class Exploring:
    """Tells the screen by messages. Of settings to be weighed only the newest are: a key that is
    held down waits for nothing."""

    class Opened(Message):
        """There is an explorer."""

        def __init__(self, explorer: Explorer) -> None:
            super().__init__()
            self.explorer = explorer

    class Failed(Message):
        """There is none."""

        def __init__(self, error: KvchatError) -> None:
            super().__init__()
            self.error = error

    class Weighed(Message):
        """What settings give; `exact`: by their exact footprint, which nothing follows."""

        def __init__(
            self, settings: Settings, candidate: Candidate, missing: str, exact: bool
        ) -> None:
            super().__init__()
            self.settings, self.candidate = settings, candidate
            self.missing, self.exact = missing, exact

    class Surveyed(Message):
        """What kvchat would choose, and what else there is."""

        def __init__(self, plan: Plan) -> None:
            super().__init__()
            self.plan = plan

    class Reached(Message):
        """The best plan for one more context."""

        def __init__(self, candidate: Candidate) -> None:
            super().__init__()
            self.candidate = candidate

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
            self._fail(error)

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
            self._fail(error)

    def _tell(self, message: Message) -> None:
        if not self._ended:
            self._screen.post_message(message)

    def _fail(self, error: Exception) -> None:
        """A sentence for whatever it was: the screen must outlive it."""
        if not isinstance(error, KvchatError):
            error = EngineError("load_failed", f"This cannot be explored: {error!r}.")
        self._tell(self.Failed(error))
