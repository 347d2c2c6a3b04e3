"""What the lines around the composer say: what is going on, how the model stands, which keys."""

from __future__ import annotations

from tui.answering import Chat
from tui.keymap import Keymap, Place, Show
from tui.screens.loads import Loads
from tui.status import Status, gauge
from tui.widgets import ActivityLine, Hints, StatusLine
from tuner.engine.patience import STILL_SECONDS
from tuner.engine.thinking import nearest
from tuner.safe_text import one_line
from tuner.units import GIB

NOT_SAVED = "not saved"
BAR = 12  # cells of a load's


def load_text(loads: Loads, key: str) -> str:
    """How far a load is, and the key that ends it."""
    fraction, still = loads.stage.fraction, loads.launcher.still
    if loads.cancelled:
        parts = ["cancelling"]
    elif fraction is None:
        parts = [loads.stage.text]
    else:
        size = loads.planned.size_bytes / GIB if loads.planned else 0.0
        done = f" · {fraction * size:.1f} of {size:.1f} GiB" if size >= 1 else ""
        bar = gauge(round(100 * fraction), 100, BAR)
        parts = [f"{loads.stage.text} {fraction:.0%} {bar}{done}"]
    if still >= STILL_SECONDS:
        parts.append(f"not got on for {still:.0f} s")
    if not loads.cancelled:
        parts.append(f"{key} cancels")
    return " · ".join(parts)


class LinesBelow:
    """The widgets, and the words in them."""

    def __init__(self, keymap: Keymap, loads: Loads, *, saved: bool):
        self.activity, self.status, self.hints = ActivityLine(), StatusLine(), Hints()
        self._keymap = keymap
        self._loads = loads
        self.saved = saved  # all of the conversation

    def say(self, text: str) -> None:
        """For a while: what a key has just done, or why it cannot."""
        self.activity.say(text)

    def doing(self, text: str) -> None:
        """What is going on, until something else is."""
        self.activity.activity = text

    def idle(self) -> None:
        """Nothing is being answered: what can be done now."""
        loads = self._loads
        if loads.active:
            self.say_load()
        else:
            self.doing("" if self.saved else NOT_SAVED)
        self.hint_idle()

    def say_load(self) -> None:
        """How far a load is, and the key that ends it."""
        self.doing(load_text(self._loads, self._keymap.label("answer.stop")))

    def hint_idle(self) -> None:
        """The keys of the composer."""
        there = self._loads.ready or self._loads.active
        self.hint(Show.IDLE if there else Show.DEAD)

    def hint_message(self) -> None:
        """The keys of a message."""
        self.hints.keys = self._keymap.hints(Show.IDLE, Place.MESSAGE)

    def hint(self, where: Show) -> None:
        """The keys that matter there."""
        self.hints.keys = self._keymap.hints(where, Place.CHAT, Place.PROMPT, Place.APP)

    def below(self, *, at_end: bool, growing: bool) -> None:
        """The marker that there is more text below the view."""
        new = "new text" if growing else "more"
        key = self._keymap.label("view.end")
        self.activity.below = "" if at_end else f"↓ {new} below · {key}"

    # ------------------------------------------------------------ how the model stands

    def set_status(self, think: str) -> None:
        """The model as it is loaded, or as it is going to be. What was counted stays."""
        if self.status.status is None:
            self.status.status = Status(model=one_line(self._loads.launcher.path.stem))
        model, planned = self._loads.model, self._loads.planned
        if self._loads.active and planned is not None:
            self.status.change(settings=planned.text, n_ctx=planned.n_ctx)
        elif model is not None:
            self.status.change(
                model=one_line(model.model.name),
                settings=model.status(),
                think=self.thinking(think),
                n_ctx=model.settings.n_ctx,
            )

    def set_counts(self, chat: Chat) -> None:
        """Tokens and speed as its last answer left them."""
        last = chat.last_answer
        self.status.change(
            n_ctx_used=last.n_ctx_used if last else None,
            tokens_per_second=last.tokens_per_second if last else None,
        )

    def thinking(self, think: str) -> str:
        """The level of thinking of the next answer; "" where there is no choice or none was made
        and the template's own has no name."""
        model = self._loads.model
        if model is None or not model.think_levels:
            return ""
        return nearest(think, model.think_levels, model.usual_think) or model.usual_think
