"""One answer being generated: filled by the thread that reads the engine, emptied by the screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from tui.answering.figures import reading
from tui.ports import RunningModel
from tuner.engine.log import note
from tuner.engine.protocol import (
    Done,
    Message,
    Notice,
    PromptProgress,
    Sampling,
    Text,
    WasThought,
)
from tuner.errors import EngineError, KvchatError


class Generation:
    """The engine may send thousands of events a second; the screen takes them in batches, when it
    has time. `run` belongs in a thread, everything else may be called from any."""

    def __init__(
        self,
        running: RunningModel,
        messages: Sequence[Message],
        sampling: Sampling,
        continue_last: bool = False,
        think: str = "",
        may_move: bool = False,
        rest_returns: bool = False,
    ):
        self._running = running
        self._request = (tuple(messages), sampling, continue_last, think, may_move, rest_returns)
        self._lock = threading.Lock()
        self._said: list[Text | WasThought] = []
        self._progress: PromptProgress | None = None
        self._finished = threading.Event()
        self._stopped = threading.Event()
        self._began: float | None = None
        self.first_seconds: float | None = None  # until its first word, of a thought even
        self.notices: list[str] = []  # what the user should know of this answer
        self.done: Done | None = None
        self.error: KvchatError | None = None

    @property
    def begun(self) -> bool:
        """The engine was asked; until then something else is done with it."""
        return self._began is not None

    @property
    def finished(self) -> bool:
        return self._finished.is_set()

    @property
    def stopped(self) -> bool:
        """The user asked it to stop."""
        return self._stopped.is_set()

    def run(self) -> None:
        """Reads the engine to the end. Never raises: what went wrong is in `error`. Where it was
        stopped before, nothing is asked."""
        if self.stopped:
            self._finished.set()
            return
        self._began = time.monotonic()
        try:
            for event in self._running.generate(*self._request):
                if isinstance(event, Text | WasThought):
                    if self.first_seconds is None:
                        self.first_seconds = self.seconds
                    with self._lock:
                        self._said.append(event)
                elif isinstance(event, PromptProgress):
                    self._progress = event
                elif isinstance(event, Notice):
                    self.notices.append(event.text)
                else:
                    self.done = event
                    self._note(event)
        except KvchatError as error:
            self.error = error
        except Exception as error:  # the chat must outlive whatever the engine's client does
            self.error = EngineError("crashed", f"The engine failed: {error!r}.")
        finally:
            self._finished.set()

    def _note(self, done: Done) -> None:
        if self._running.log_path is not None and (read := reading(done)):
            note(self._running.log_path, read)

    @property
    def seconds(self) -> float:
        """For which the engine has been asked."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    @property
    def still(self) -> float:
        """Seconds for which the engine has not got on."""
        return self._running.still

    def stop(self) -> None:
        """Asks the engine to stop; returns at once. To be asked again where it has yet to begin:
        what the engine does until then is something else."""
        self._stopped.set()
        if self.begun:
            self._running.stop()

    def take(self) -> tuple[list[Text | WasThought], PromptProgress | None]:
        """What was said and thought since the last call, and how far the prompt is."""
        with self._lock:
            said, self._said = self._said, []
        return said, self._progress
