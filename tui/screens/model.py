"""The model that the chat talks to, as it is loaded, measured, paused and lost."""

from __future__ import annotations

import gc

from textual import work

from tui.answering import advice
from tui.ports import Retry
from tui.screens import opening
from tui.screens.balance import Balance
from tui.screens.choices import Choice
from tui.screens.loads import Loads
from tui.screens.measuring import Measuring
from tui.screens.switching import SwitchingScreen
from tui.screens.warmth import Warmth


class ModelScreen(SwitchingScreen):
    """Hears from the threads what becomes of the model, and tells it."""

    # ------------------------------------------------------------ loaded

    def action_reload(self) -> None:
        if not self._loads.ready:
            self._changing.start()

    def _tell_of_a_standstill(self) -> None:
        if self._loads.active:
            self._lines.say_load()

    async def on_loads_progressed(self, message: Loads.Progressed) -> None:
        self._loads.heard(message)
        if isinstance(message.event, Retry):
            await self._warn(message.event.reason)
        self._lines.set_status(self._think)
        self._lines.say_load()

    async def on_loads_failed(self, message: Loads.Failed) -> None:
        self._loads.heard(message)
        self._warmth.mourned, self._goes_on = "", False
        self._lines.idle()
        await self._full.loaded(as_planned=False)
        text = advice.not_loaded(message.error, self._keymap)
        await self._transcript.notice(text, "error" if message.error else "warning")

    async def on_loads_loaded(self, message: Loads.Loaded) -> None:
        first, running = self.running_model is None, message.running
        stayed = running is self.running_model
        self._loads.heard(message)
        if first:
            self._think = running.think
            gc.freeze()  # once more, with what the load has brought
        self._warmth.idle.done()
        self._lines.set_status(self._think)
        self._lines.idle()
        await self._transcript.clear_notices()
        if not self.chat.path:
            await self._welcome()
        of_first = (*self._warnings, *running.warnings) if first else ()
        await self._warn(*of_first, self._present.also_open, message.said)
        if not first and not stayed and not running.n_moved:
            self._warmth.read.lost()
        self._warmth.opened(self.chat)  # where the load has not carried it over
        why, self._warmth.mourned = self._warmth.mourned, ""
        cut, waits = self.chat.may_go_on, self._sent and self.chat.waits_for_answer
        aside = waits or self.app.screen is self._comparing  # there is no need to say it
        if not first and not message.said and (why or not aside):
            text = advice.is_back(running, self._keymap, why, cut=cut, waits=waits)
            await self._transcript.notice(text)
        goes_on, self._goes_on = self._goes_on and cut, False
        if waits or goes_on:
            await self._answer(go_on=goes_on)
        await self._full.loaded(as_planned=not message.said)
        self._measure(count=bool(self.chat.path) and not self.generating)
        self._composing.weigh()

    # ------------------------------------------------------------ looked into

    def action_report(self) -> None:
        model = self.running_model
        if model is None:
            self._lines.say("the model is not loaded yet")
        else:
            last_reading = self._lines.session.last_reading
            self.app.push_screen(opening.report(model, self._keymap, last_reading))

    def action_explore(self) -> None:
        if self._loads.active:
            self._lines.say_still_loading()
            return
        model, launcher = self.running_model, self._loads.launcher
        screen = opening.explorer(
            model.explorer if model is not None else launcher.explorer,
            self._keymap,
            loaded=self._loads.ready,
            busy=lambda: self.generating,
        )

        def chosen(choice: Choice | None) -> None:
            if choice is not None:
                self._changing.change(choice)

        self.app.push_screen(screen, chosen)

    # ------------------------------------------------------------ measured

    async def on_measuring_measured(self, message: Measuring.Measured) -> None:
        self._lines.measured(message.vitals)
        if message.n_ctx_used is not None and not self.generating:
            self._lines.used(message.n_ctx_used)
            self._full.counted(message.n_ctx_used, message.model.settings.n_ctx)
        if message.model is self.running_model and not message.alive and self._is_idle:
            self._loads.rest()
            self._warmth.read.lost()
            self._lines.idle()
            await self._transcript.notice(advice.found_dead(message.model, self._keymap), "error")

    def _look_around(self) -> None:
        model = self.running_model
        if model is not None and self._loads.ready and not self._leaving:
            busy = not self._is_idle or self.app.screen is not self
            self._balance.start(model, busy=busy, least=self._lines.n_tokens)

    async def on_balance_looked(self, message: Balance.Looked) -> None:
        look = message.look
        if message.model is not self.running_model or not self._loads.ready:
            return
        self._lines.tight(look.tight)
        self._balance.looked(message)
        if look.settings is None:
            return
        if look.offered:
            key = self._key("model.balance")
            await self._transcript.notice(f"{look.why}\n{key} loads it; the conversation goes on.")
        elif self._is_idle:
            self._warmth.mourned = look.why
            self._changing.move(look.settings)

    def action_balance(self) -> None:
        self._changing.take_offer()

    @property
    def _is_idle(self) -> bool:
        return self._loads.ready and not self.generating

    # ------------------------------------------------------------ paused

    @work(group="open", exclusive=True)
    async def action_pause(self) -> None:
        """Lets the model's memory go; what is written of an answer is kept."""
        if self._loads.active:
            self._lines.say_still_loading()
        elif not self._loads.ready:
            self._lines.say_no_model()
        elif await self.settle():
            self._rest()

    def _rest(self) -> None:
        """Lets the model's memory go until it is asked again."""
        self._warmth.rest()
        self._lines.measured(None)
        self._lines.idle()

    def _rest_in_time(self) -> None:
        """The same, where nobody has asked for anything for long."""
        ready = self._loads.ready and not self.generating and self.app.screen is self
        if ready and self._warmth.idle.due:
            self._rest()

    def on_warmth_doing(self, message: Warmth.Doing) -> None:
        self._warmth.doing = message.text
        self._tell_of_warmth()

    def _tell_of_warmth(self) -> None:
        doing = self._warmth.doing
        if doing and self._leaving:
            self._lines.doing(f"{doing} · {self._key('app.quit')} again skips it")
        elif doing:
            self._lines.doing(doing)
        elif not self.generating:
            self._lines.idle()
