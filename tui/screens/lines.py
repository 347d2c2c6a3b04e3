"""What the lines around the composer say: what is going on, how the model stands, which keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.answering import Chat
from tui.answering.session import Session
from tui.answering.words import BACK
from tui.keymap import Keymap, Place, Show
from tui.screens.loads import Loads
from tui.status import Status, gauge
from tui.storage import StoredMessage
from tui.widgets import ActivityLine, Hints, StatusLine
from tuner.engine.patience import STILL_SECONDS
from tuner.engine.protocol import Done
from tuner.engine.thinking import nearest
from tuner.safe_text import one_line
from tuner.units import GIB

if TYPE_CHECKING:
    from tui.ports import Vitals

NOT_SAVED = "not saved"
NOT_LOADED = "the model is not loaded"
RESTS = f"paused: {BACK}"
SPILLING = "spilling"  # out of a GPU's memory, into RAM
TIGHT = "others need {}"  # memory
TOO_SLOW = "slower than predicted"
SLOWER = 0.6  # of what was predicted: a prediction is not better than that
TELLING_TOKENS = 48  # a shorter answer says nothing of the speed
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
        self._saved = saved
        self._spilled = self._slower = False
        self._tight = ""
        self.session = Session()

    @property
    def saved(self) -> bool:
        """All of the conversation is."""
        return self._saved

    @saved.setter
    def saved(self, saved: bool) -> None:
        self._saved = saved
        self._set_word()

    def say(self, text: str) -> None:
        """For a while: what a key has just done, or why it cannot."""
        self.activity.say(text)

    def doing(self, text: str) -> None:
        """What is going on, until something else is."""
        self.activity.activity = text

    def idle(self) -> None:
        """Nothing is being answered: what can be done now."""
        if self._loads.active:
            self.say_load()
        else:
            self.doing(RESTS if self._loads.rests else "")
        self.hint_idle()

    def say_load(self) -> None:
        """How far a load is, and the key that ends it."""
        self.doing(load_text(self._loads, self._keymap.label("answer.stop")))

    def say_still_loading(self) -> None:
        """What was asked for has to wait for a load."""
        self.say(f"still loading · {self._keymap.label('answer.stop')} cancels")

    def say_no_model(self) -> None:
        """There is no model to ask, and how it comes."""
        key = self._keymap.label("model.reload")
        rests = self._loads.rests
        self.say(f"the model is paused · {key} brings it back" if rests else NOT_LOADED)

    def hint_idle(self) -> None:
        """The keys of the composer."""
        loads = self._loads
        there = loads.ready or loads.active or loads.rests
        self.hint(Show.IDLE if there else Show.DEAD)

    def hint_place(self, place: Place) -> None:
        """The keys of a message, or of selecting in one."""
        self.hints.keys = self._keymap.hints(Show.IDLE, place)

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
            self._slower = self._spilled = False
            self._set_word()
            self.status.change(
                model=one_line(model.model.name),
                settings=model.status(),
                think=self.thinking(think),
                n_ctx=model.settings.n_ctx,
            )

    def set_counts(self, chat: Chat) -> None:
        """Tokens and speed as its last answer left them."""
        last = chat.last_answer
        self.used(last.n_ctx_used if last else None)
        self.status.change(tokens_per_second=last.tokens_per_second if last else None)

    def answered(self, answer: StoredMessage, done: Done) -> None:
        """The same as this answer left them, which has just come."""
        self.session.answered(answer, done)
        self.used(answer.n_ctx_used)
        self.status.change(tokens_per_second=answer.tokens_per_second)
        model, tps = self._loads.model, answer.tokens_per_second
        if model is not None and tps and (answer.n_tokens or 0) >= TELLING_TOKENS:
            expected = model.expected_tps(answer.n_ctx_used or 0)
            self._slower = tps < SLOWER * expected
        self._set_word()

    @property
    def n_tokens(self) -> int:
        """In the cache, as far as is known."""
        status = self.status.status
        return (status.n_ctx_used if status else None) or 0

    def used(self, n_tokens: int | None) -> None:
        """So many tokens are in the cache."""
        model = self._loads.model
        cache = None if model is None or n_tokens is None else model.cache_bytes(n_tokens)
        self.status.change(n_ctx_used=n_tokens, cache=cache)

    def live(self, n_tokens: int | None, tps: float | None) -> None:
        """As it is while an answer is written: tokens in the cache, and tokens/s of now."""
        if n_tokens is not None:
            self.used(n_tokens)
        if tps is not None:
            self.status.change(tokens_per_second=tps)

    def measured(self, vitals: Vitals | None) -> None:
        """How the memory stands now; None: it could not be read."""
        status = self.status.status
        self.session.sample(vitals, status.n_ctx_used if status else None)
        self._spilled = vitals is not None and vitals.spilled
        if vitals is None:
            self.status.change(vram=None, ram=None, temperature=None, power=None)
        else:
            self.status.change(
                vram=vitals.vram,
                ram=vitals.ram,
                temperature=vitals.temperature,
                power=vitals.power,
            )
        self._set_word()

    def tight(self, where: str) -> None:
        """Where other programs have nearly all memory; "": nowhere."""
        if where != self._tight:
            self._tight = where
            self._set_word()

    def _set_word(self) -> None:
        """What is not as it should be, the worst alone."""
        words = (
            (not self.saved, NOT_SAVED),
            (self._spilled, SPILLING),
            (self._tight, TIGHT.format(self._tight)),
            (self._slower, TOO_SLOW),
        )
        self.status.change(word=next((word for true, word in words if true), ""))

    def thinking(self, think: str) -> str:
        """The level of thinking of the next answer; "" where there is no choice or none was made
        and the template's own has no name."""
        model = self._loads.model
        if model is None or not model.think_levels:
            return ""
        return nearest(think, model.think_levels, model.usual_think) or model.usual_think
