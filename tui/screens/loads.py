"""Whether there is a model to talk to, and loading one while the chat is open: the first time,
after its process died, or with other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from textual.message import Message

from tui.answering import launching
from tui.ports import LaunchEvent, ModelLauncher, Planned, Ready, Retry, RunningModel, Stage
from tui.screens.direct import DirectScreen
from tuner.errors import KvchatError


class Loads:
    """Loads in a thread, one model at a time, and tells the screen by messages how far it is and
    how it ended."""

    @dataclass(eq=False)
    class Progressed(Message):
        """What is being done, and how it will be loaded once that is known."""

        event: Stage | Retry | Planned

    @dataclass(eq=False)
    class Failed(Message):
        """There is no model. `error`: None where the load was cancelled."""

        error: KvchatError | None

    @dataclass(eq=False)
    class Loaded(Message):
        """The model answers now. `said`: what did not go as it should on the way, if anything."""

        running: RunningModel
        said: str = ""

    def __init__(self, screen: DirectScreen, launcher: ModelLauncher):
        self._screen = screen
        self.launcher = launcher
        self.model: RunningModel | None = None  # the last that was loaded, dead or not
        self.ready = False  # it answers
        self.rests = False  # its process has ended, and the next message starts it again
        self.active = False  # a load is under way
        self.stage = Stage("starting")  # of that load
        self.planned: Planned | None = None  # by that load
        self.error: KvchatError | None = None  # of the last load, where it failed
        self.said = ""  # what did not go as it should in the last that did not
        self.first: Callable[[], object] | None = None  # what a load waits for, in its thread
        self.cancelled = False

    def start(self, load: Callable[[], Iterator[LaunchEvent]] | None = None) -> None:
        """Begins, unless a load is under way. `load`: another way than planning and loading."""
        if self.active:
            return
        self.active, self.ready, self.cancelled = True, False, False
        self.rests = False
        self.error = self.planned = None
        self.stage = Stage("starting")
        run = partial(self._load, load or self.launcher.start)
        # What a load imports would keep the prompt waiting.
        worker = partial(self._screen.run_worker, run, thread=True, group="load")
        self._screen.once_drawn(worker)

    def stop(self) -> bool:
        """Cancels what is loaded; returns at once. True where there is something."""
        if self.active:
            self.cancelled = True
            self.launcher.cancel()
        return self.active

    def died(self) -> None:
        """The model's process ended."""
        self.ready = False

    def rest(self) -> None:
        """The same, and nobody waits for it."""
        self.ready, self.rests = False, True

    # ------------------------------------------------------------ what the screen has heard

    def heard(self, message: Loads.Progressed | Loads.Failed | Loads.Loaded) -> None:
        """Takes in what the thread told, on the screen's."""
        match message:
            case Loads.Progressed(event=Stage() as stage):
                self.stage = stage
            case Loads.Progressed(event=Planned() as planned):
                self.planned = planned
            case Loads.Failed(error=error):
                self.active, self.error = False, error
            case Loads.Loaded(running=running, said=said):
                self.active, self.ready = False, True
                self.model, self.said = running, said

    # ------------------------------------------------------------ the thread

    def _load(self, load: Callable[[], Iterator[LaunchEvent]]) -> None:
        said = ""
        if self.first is not None:
            self.first()
        if self.cancelled:  # before it began
            self._screen.post_message(self.Failed(None))
            return
        for event in launching.events(load):
            match event:
                case Ready(running=running):
                    self._screen.post_message(self.Loaded(running, said))
                case launching.Failed(error=error):
                    self._screen.post_message(self.Failed(error))
                case _:
                    said = event.reason if isinstance(event, Retry) else said
                    self._screen.post_message(self.Progressed(event))
