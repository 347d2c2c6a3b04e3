"""Loading the model again after its process died, while the chat stays open."""

from __future__ import annotations

from functools import partial

from textual.message import Message
from textual.screen import Screen

from tui.ports import Ready, Retry, RunningModel, Stage
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
        """The model answers again."""

        def __init__(self, running: RunningModel) -> None:
            super().__init__()
            self.running = running

    def __init__(self, screen: Screen[None]):
        self._screen = screen
        self._active = False
        self._model: RunningModel | None = None

    def start(self, model: RunningModel) -> None:
        """Begins, unless it is under way."""
        if not self._active:
            self._active = True
            self._model = model
            self._screen.post_message(self.Progressed("loading the model again"))
            self._screen.run_worker(partial(self._load, model), thread=True, group="reload")

    def stop(self) -> bool:
        """Cancels what the engine loads; returns at once. True where there is something."""
        if self._active and self._model is not None:
            self._model.stop()
        return self._active

    def ended(self) -> None:
        """The screen has heard how it ended: it may be begun again."""
        self._active = False

    def _load(self, model: RunningModel) -> None:
        end: Message = self.Failed(EngineError("load_failed", "The load ended without a model."))
        try:
            for event in model.reload():
                match event:
                    case Stage(text=text, fraction=fraction):
                        percent = "" if fraction is None else f" {100 * fraction:.0f}%"
                        self._screen.post_message(self.Progressed(f"{text}{percent}"))
                    case Retry(reason=reason):
                        self._screen.post_message(self.Progressed(reason))
                    case Ready(running=running):
                        end = self.Loaded(running)
        except KvchatError as error:
            end = self.Failed(error)
        except Exception as error:  # the chat must outlive it
            end = self.Failed(EngineError("load_failed", f"Loading failed: {error!r}."))
        self._screen.post_message(end)
