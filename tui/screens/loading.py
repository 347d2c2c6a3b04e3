"""The model being planned and loaded."""

from __future__ import annotations

from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import ProgressBar

from tui.keymap import BY_ID, Keymap, Place
from tui.ports import ModelLauncher, Ready, Retry, RunningModel, Stage
from tui.screens.bindings import bindings
from tui.widgets import Plain
from tuner.engine.patience import STILL_SECONDS
from tuner.errors import EngineCancelled, EngineError, ExitCode, KvchatError
from tuner.safe_text import one_line


class LoadingScreen(Screen[None]):
    """Runs the launcher in a thread and shows how far it is."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.LOADING)

    class Progressed(Message):
        """The launcher said something."""

        def __init__(self, event: Stage | Retry | Ready) -> None:
            super().__init__()
            self.event = event

    class Ended(Message):
        """The launcher ended without a model; `error` is None if it was cancelled."""

        def __init__(self, error: KvchatError | None) -> None:
            super().__init__()
            self.error = error

    class Loaded(Message):
        """The model answers now. Sent to the app."""

        def __init__(self, running: RunningModel) -> None:
            super().__init__()
            self.running = running

    class Failed(Message):
        """The user left after a failure or a cancel. Sent to the app."""

        def __init__(self, error: KvchatError | None, exit_code: int) -> None:
            super().__init__()
            self.error = error
            self.exit_code = exit_code

    def __init__(self, launcher: ModelLauncher, keymap: Keymap):
        super().__init__()
        self._keymap = keymap
        self._launcher = launcher
        self._cancelled = False
        self._error: KvchatError | None = None
        self._ended = False
        self._stage = "starting"

    def compose(self) -> ComposeResult:
        with Vertical(id="loading"):
            yield Plain(one_line(self._launcher.path.name), id="loading-name")
            yield Plain("starting", id="loading-stage")
            yield ProgressBar(total=1.0, show_eta=False, id="loading-bar")
            yield Plain(id="loading-notes")
            yield Plain(self._hint("loading.cancel"), id="loading-hint")

    def _hint(self, action_id: str) -> str:
        return f"{self._keymap.label(action_id)} {BY_ID[action_id].hint}"

    def on_mount(self) -> None:
        self._launch()
        self.set_interval(1.0, self._tell_of_a_standstill)

    def on_unmount(self) -> None:
        # However the program ends, no thread may wait for the engine.
        if not self._ended:
            self._launcher.cancel()

    @work(thread=True, group="launch")
    def _launch(self) -> None:
        error: KvchatError | None = None
        ready = False
        try:
            for event in self._launcher.start():
                ready = ready or isinstance(event, Ready)
                self.post_message(self.Progressed(event))
        except EngineCancelled:
            pass
        except KvchatError as problem:
            error = problem
        except Exception as problem:  # a defect of ours: still one sentence, and the terminal whole
            error = EngineError("load_failed", f"Loading failed: {problem!r}.")
        if not ready:
            self.post_message(self.Ended(error))

    def on_loading_screen_progressed(self, message: Progressed) -> None:
        match message.event:
            case Stage(text=text, fraction=fraction):
                self._stage = text
                self._show_stage()
                bar = self.query_one(ProgressBar)
                bar.update(total=None if fraction is None else 1.0, progress=fraction or 0.0)
            case Retry(reason=reason):
                self.query_one("#loading-notes", Plain).show(reason)
            case Ready(running=running):
                self._ended = True
                if self._cancelled:
                    self._close(running)
                else:
                    self.app.post_message(self.Loaded(running))

    def _show_stage(self, more: str = "") -> None:
        text = "cancelling" if self._cancelled else self._stage
        self.query_one("#loading-stage", Plain).show(text + more)

    def _tell_of_a_standstill(self) -> None:
        still = self._launcher.still
        if not self._ended:
            self._show_stage(f" · not got on for {still:.0f} s" if still >= STILL_SECONDS else "")

    @work(thread=True)
    def _close(self, running: RunningModel) -> None:
        running.close()
        self.post_message(self.Ended(None))

    def on_loading_screen_ended(self, message: Ended) -> None:
        self._ended = True
        self._error = message.error
        if self._cancelled or message.error is None:
            self.app.post_message(self.Failed(None, ExitCode.INTERRUPTED))
            return
        self.query_one("#loading").add_class("-failed")
        self.query_one("#loading-stage", Plain).show(str(message.error))
        self.query_one("#loading-hint", Plain).show(self._hint("loading.leave"))
        self.query_one(ProgressBar).display = False

    def action_cancel(self) -> None:
        if self._ended:
            self.action_leave()
        elif not self._cancelled:
            self._cancelled = True
            self._show_stage()
            self._launcher.cancel()
        else:  # the launcher does not answer: leave all the same
            self.app.post_message(self.Failed(None, ExitCode.INTERRUPTED))

    def action_leave(self) -> None:
        if self._error is not None:
            self.app.post_message(self.Failed(self._error, self._error.exit_code))
