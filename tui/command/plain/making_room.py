"""Making room in the context, in one of several ways, with a line for each step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from tui.answering import Chat
from tui.answering.generation import Generation
from tui.answering.making_room import Summary, bring_back, larger_context, let_go, room
from tui.answering.room import Situation
from tui.answering.view import View
from tui.command.output import PROGRESS_SECONDS, complain
from tui.command.pace import Pace
from tui.command.plain.keyboard import Keyboard, Left
from tui.command.plain.model import LOOK_SECONDS, Model
from tui.ports import RunningModel
from tui.status import SEPARATOR
from tui.storage import Recorder
from tui.when_full import Way


class MakingRoom:
    """Counts, plans, loads or has the model write, and waits for it."""

    def __init__(
        self,
        model: Model,
        recorder: Recorder,
        keyboard: Keyboard,
        loaded: Callable[[RunningModel], None],
        ask: Callable[[Generation], None],
    ):
        """`loaded`: says that a model is there. `ask`: runs a generation, in a thread."""
        self._model = model
        self._recorder = recorder
        self._keyboard = keyboard
        self._loaded, self._ask = loaded, ask

    def made(self, way: Way, chat: Chat, situation: Situation) -> bool:
        """Whether there is room now. Raises KvchatError, and Left."""
        match way:
            case Way.GROW:
                complain("planning a larger context")
                before, change = situation.n_ctx, situation.running.change
                larger, how = larger_context(situation)
                complain(f"loading it again with {how}")
                if not self._model.load(partial(change, larger.settings, keep=None)):
                    return False
                assert self._model.running is not None
                self._loaded(self._model.running)
                return self._model.running.settings.n_ctx > before
            case Way.BRING_BACK:
                done = bring_back(chat)
            case Way.DROP:
                done = let_go(chat, situation, room(situation))
            case Way.SUMMARISE:
                written = self._summarised(Summary(situation, room(situation, for_summary=True)))
                if written is None:
                    complain("stopped; everything is as it was")
                    return False
                done = let_go(chat, situation, written)
        message, said = done
        self._recorder.save(chat.record(), message)
        complain(said)
        return True

    def _summarised(self, summary: Summary) -> View | None:
        """Lets the model write a summary; Ctrl+C stops it. Raises KvchatError, and Left."""
        pace = Pace(PROGRESS_SECONDS)
        run = partial(self._ask, summary.generation)
        threading.Thread(target=run, daemon=True, name="engine").start()
        while not summary.take():
            if self._keyboard.left:
                raise Left
            if self._keyboard.interrupted:
                summary.generation.stop()
            if summary.doing and pace.due(
                line := summary.doing.replace(SEPARATOR, ", "), time.monotonic()
            ):
                complain(line)
            time.sleep(LOOK_SECONDS)
        return summary.written()
