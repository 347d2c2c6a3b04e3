"""Loading the model again while the chat stays open: after its process died, or otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from textual.message import Message
from textual.screen import Screen

from tui.ports import LaunchEvent, Ready, Retry, RunningModel, Stage
from tuner.errors import EngineError, KvchatError


class Reloading:
    """Loads in a thread and tells the screen by messages how far it is and how it ended."""

    class Progressed(Message):
        """What is being done."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Failed(Message):
        """There is still no model."""

        def __init__(self, error: KvchatError) -> None:
            super().__init__()
            self.error = error

    class Loaded(Message):
        """The model answers again. `said`: what did not go as it should on the way, if anything."""

        def __init__(self, running: RunningModel, said: str = "") -> None:
            super().__init__()
            self.running = running
            self.said = said

    def __init__(self, screen: Screen[None]):
        self._screen = screen
        self._active = False
        self._model: RunningModel | None = None

    @property
    def active(self) -> bool:
        """It is under way."""
        return self._active

    def start(self, model: RunningModel, load: Callable[[], Iterator[LaunchEvent]]) -> None:
        """Begins, unless it is under way. `load`: a way of loading this model again."""
        if not self._active:
            self._active = True
            self._model = model
            self._screen.post_message(self.Progressed("loading the model again"))
            self._screen.run_worker(partial(self._load, load), thread=True, group="reload")

    def stop(self) -> bool:
        """Cancels what the engine loads; returns at once. True where there is something."""
        if self._active and self._model is not None:
            self._model.stop()
        return self._active

    def ended(self) -> None:
        """The screen has heard how it ended: it may be begun again."""
        self._active = False

    def _load(self, load: Callable[[], Iterator[LaunchEvent]]) -> None:
        end: Message = self.Failed(EngineError("load_failed", "The load ended without a model."))
        said = ""
        try:
            for event in load():
                match event:
                    case Stage(text=text, fraction=fraction):
                        percent = "" if fraction is None else f" {100 * fraction:.0f}%"
                        self._screen.post_message(self.Progressed(f"{text}{percent}"))
                    case Retry(reason=reason):
                        said = reason
                        self._screen.post_message(self.Progressed(reason))
                    case Ready(running=running):
                        end = self.Loaded(running, said)
        except KvchatError as error:
            end = self.Failed(error)
        except Exception as error:  # the chat must outlive it
            end = self.Failed(EngineError("load_failed", f"Loading failed: {error!r}."))
        self._screen.post_message(end)
