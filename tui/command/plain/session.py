"""A conversation in lines: an entry, its answer, the next one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from tui.answering import Chat, Growing, advice
from tui.answering.deaths import Deaths
from tui.answering.elsewhere import ALSO_OPEN, taken_in, written
from tui.answering.figures import reading
from tui.answering.making_room import NoRoomError
from tui.answering.room import NEARLY_FULL, Situation
from tui.answering.warm import Warm
from tui.answering.words import how_it_ended
from tui.command.output import complain, write
from tui.command.plain import words
from tui.command.plain.commands import Commands, WrongCommandError, command
from tui.command.plain.entries import entry
from tui.command.plain.keyboard import LEAVE, STOP, Keyboard, Left
from tui.command.plain.making_room import MakingRoom
from tui.command.plain.model import LOOK_SECONDS, Model, say
from tui.command.plain.speaker import Speaker
from tui.composing.attaching import Attaching
from tui.composing.commands import as_text
from tui.composing.draft import Draft
from tui.composing.parts import Question, composed
from tui.ports import ModelLauncher, RunningModel
from tui.storage import Conversations, Presence, Recorder, StoredMessage
from tui.when_full import Way
from tuner.engine.protocol import Sampling
from tuner.errors import KvchatError
from tuner.units import count_text

KILL_SECONDS = 12.0  # after a stop; the engine's client ends its process before that
_PROMPT, _MORE = "You: ", "more: "

Begin = Callable[[Chat, RunningModel, Recorder, Sampling, str], Growing]


class Session:
    """`run` returns when the user leaves; `stop` and `close` are to be called then."""

    def __init__(
        self,
        launcher: ModelLauncher,
        store: Conversations,
        keyboard: Keyboard,
        chat: Chat,
        *,
        show_thinking: bool = False,
        when_full: Way | None = None,
        idle_seconds: float | None = None,
    ):
        """`when_full`: how room is made in a full context without asking. `idle_seconds`: after
        which the model's memory is let go; None: it is not."""
        self.chat = chat
        self.store = store
        self.warm = Warm(store)
        self.model = Model(launcher, keyboard, self.warm.wait)
        self.last_reading = ""  # what of the last prompt had to be read
        self._deaths = Deaths()
        self._idle_seconds = idle_seconds
        self.think = ""  # the level of thinking
        self.quits = False  # a command said so
        self._heard: deque[str] = deque()  # from the thread that saves
        self.recorder = Recorder(store, self._heard.append, self._heard.append)
        self._presence = Presence(store.path)
        self._keyboard = keyboard
        self._shows_thinking = show_thinking
        self._when_full = when_full
        self._room = MakingRoom(
            self.model,
            self.recorder,
            keyboard,
            self._tell_loaded,
            partial(self.warm.before, aside=True),
        )
        self._attaching = Attaching(Path.cwd())
        self._growing: Growing | None = None  # what is being written
        self._asked = False  # a question that this session has yet to answer
        self._refused: StoredMessage | None = None  # the question that does not fit the context
        self._welcomed = False

    def run(self) -> int:
        """The exit status. Raises Left where a signal ends it."""
        with suppress(KvchatError):  # the store has said so itself
            self._keyboard.remember(*self.store.prompts())
        self.load()
        self.show(self.chat)
        while not self.quits and (text := self._entry()) is not None:
            self._do(text)
        return self.model.exit_code

    # ------------------------------------------------------------ what is written

    def _entry(self) -> str | None:
        """What is written next; None: the user leaves."""
        quits = False
        while True:
            while self._heard:
                if word := self._heard.popleft():
                    complain(word)
            write("\n")
            try:
                with self._rests_in_time():
                    text = entry(lambda more: self._keyboard.line(_MORE if more else _PROMPT))
            except EOFError:
                write("\n")
                return None
            except KeyboardInterrupt:
                write("\n")
                if quits and not self._keyboard.had_text:
                    return None
                quits = True
                complain(f"{STOP} again, or {LEAVE}, leaves")
                continue
            if text.strip():
                self._keyboard.remember(text)
                return text
            quits = False

    def _do(self, text: str) -> None:
        """Sends a text, or does what a command says."""
        try:
            found = command(text)
            if found is None:
                self.send(text)
            else:
                row, rest = found
                row.run(self, rest)
        except (WrongCommandError, KvchatError) as error:
            complain(str(error))

    def reworded(self, text: str) -> str:
        """A question in other words; "" where it is to stay."""
        if not self._keyboard.edits:
            write(f"{text}\n")
            complain("the question in other words, or nothing to leave it")
        try:
            new = self._keyboard.line(_PROMPT, text)
        except (EOFError, KeyboardInterrupt):
            write("\n")
            return ""
        return "" if new == text else new

    # ------------------------------------------------------------ asking and answering

    def send(self, text: str, instead_of: StoredMessage | None = None) -> None:
        """Saves a question, or another wording of one, and lets the model answer it."""
        if not self.model.ready and self.chat.waits_for_answer and instead_of is None:
            complain("not sent: the question before has no answer yet; /reload loads the model")
            return
        if instead_of is None and self._refused is not None and self.chat.waits_for_answer:
            instead_of = self._refused
            complain("this stands in for the question that did not fit")
        question = self._question(text)
        if question is None or not self._caught_up():
            complain("not sent")
            return
        if instead_of is not None:
            message = self.chat.edit(instead_of, question.content, question.parts)
        else:
            message = self.chat.add_user(question.content, question.parts)
        self.recorder.save(self.chat.record(), message)
        self.recorder.remember(message.id, text)
        if len(self.chat.path) == 1:
            self._presence.enter(self.chat.conversation.id)
        self.ask()

    def _question(self, text: str) -> Question | None:
        """The text with the files that it names; None, with a sentence, where one cannot go
        along."""
        attached = self._attaching.attach(text)
        for word in (*attached.problems, *attached.remarks):
            complain(word)
        for file in attached.files:
            complain(f"{file.name} goes along")
        if attached.problems:
            return None
        return composed(Draft(as_text(text)), [(file, None) for file in attached.files])

    def _caught_up(self) -> bool:
        """Takes in what another kvchat wrote; whether the question is to be sent after that."""
        of, known = self.chat.conversation.id, self.chat.tree.ids
        if news := taken_in(self.chat, written(self.store, of, known)):
            complain(news)
            self.tell_where()
            try:
                self._keyboard.line(f"Enter sends yours after that, {STOP} does not: ")
            except (EOFError, KeyboardInterrupt):
                write("\n")
                return False
        return True

    def ask(self, begin: Begin = Growing.begin) -> None:
        """Lets the model answer the conversation as it stands, or go on."""
        self._asked, self._refused = True, None
        if self.model.rests:
            self.load()  # and ask
            return
        running = self.model.running
        if running is None or not self.model.ready:
            complain("it is saved; the model is not running, /reload loads it and asks")
            return
        growing = begin(self.chat, running, self.recorder, running.sampling, self.think)
        self._growing, self._asked = growing, False
        self.warm.asked(self.chat.conversation.id)
        run = partial(self.warm.before, growing.generation)
        threading.Thread(target=run, daemon=True, name="engine").start()
        self._follow(growing, running)
        self._growing = None
        came = growing.end()
        for notice in growing.generation.notices:
            complain(notice)
        self._tell_end(growing, running, came=came)

    def _follow(self, growing: Growing, running: RunningModel) -> None:
        """Says the answer as it comes; Ctrl+C stops it. Raises Left."""
        speaker = Speaker(growing, show_thinking=self._shows_thinking)
        stopping = 0.0  # seconds
        write("\n")
        while True:
            if self._keyboard.left:
                raise Left
            if self._keyboard.interrupted:
                growing.generation.stop()
            if growing.generation.stopped:
                stopping += LOOK_SECONDS
            if stopping > KILL_SECONDS:
                running.kill()
            taken = growing.take()
            speaker.heard(taken)
            if taken.finished:
                speaker.end()
                return
            growing.keep()
            time.sleep(LOOK_SECONDS)

    def _tell_end(self, growing: Growing, running: RunningModel, *, came: bool) -> None:
        """How it ended, where it is not as it should."""
        done, error = growing.generation.done, growing.generation.error
        if done is not None:
            self.last_reading = reading(self.warm.cold(done, len(self.chat.path)))
            self.warm.answered(running, self.chat.conversation.id, done)
            self._deaths.answered()
        if error is not None and error.kind == "context_full":
            self._refused = self.chat.path[-1] if self.chat.waits_for_answer else None
            self._met_the_end("The conversation no longer fits the context", running)
        elif error is not None and advice.is_death(error):
            self._mourn(error, running)
        elif error is not None:
            say(advice.failure(error, running, Commands()))
        elif not came:
            complain("the model said nothing; /again asks it again")
        elif done is not None and done.reason == "context_full":
            self._met_the_end("The context is full: the answer ends here", running)
        elif how := how_it_ended(growing.answer):
            goes_on = "; /continue goes on" if self.chat.may_go_on else ""
            complain(f"{how}, and kept{goes_on}")
        used, n_ctx = growing.answer.n_ctx_used or 0, running.settings.n_ctx
        if done is not None and done.reason != "context_full" and used > NEARLY_FULL * n_ctx:
            complain(words.context(used, n_ctx))

    def _mourn(self, error: KvchatError, running: RunningModel) -> None:
        """The model's process died: once it is loaded again by itself."""
        self.model.ready = False
        self.warm.lost()
        self._asked = self.chat.waits_for_answer
        comes_back = self._deaths.died()
        say(advice.failure(error, running, Commands(), comes_back=comes_back))
        if comes_back:
            self.load()
            if self.model.ready and self.chat.may_go_on:
                complain("/continue goes on with the answer that was cut")

    # ------------------------------------------------------------ a full context

    def _met_the_end(self, what: str, running: RunningModel) -> None:
        """Makes room, where that needs no asking, or says how it is made."""
        complain(f"{what} ({running.settings.n_ctx:,} tokens); everything is kept")
        if self._when_full is not None:
            self.make_room(self._when_full)
        else:
            complain(words.WAYS)

    def make_room(self, way: Way) -> None:
        """Makes room in the context in this way, and goes on with what waits for it."""
        running, chat = self.has_model(), self.chat
        if running is None:
            return
        goes_on = not chat.waits_for_answer and chat.may_go_on
        system = chat.conversation.system_prompt
        situation = Situation(running, system, chat.view, self.think, goes_on=goes_on)
        try:
            made = self._room.made(way, chat, situation)
        except NoRoomError as error:
            complain(str(error))
            return
        if not made:
            return
        if chat.waits_for_answer:
            self.ask()
        elif chat.path and chat.path[-1].state == "context_full" and way is not Way.BRING_BACK:
            self.ask(Growing.go_on)

    # ------------------------------------------------------------ the conversation, the model

    def show(self, chat: Chat) -> None:
        """Another conversation is the open one."""
        self._leave()
        self.chat, self._asked = chat, False
        self._come_back()
        if not chat.path:
            self._presence.leave()
            return
        self.tell_where()
        if self._presence.enter(chat.conversation.id):
            complain(ALSO_OPEN)

    def _leave(self) -> None:
        """What the model has read of the open conversation is kept."""
        if self.model.running is not None and self.model.ready:
            self.warm.left(self.model.running)

    def _come_back(self) -> None:
        """It is given back what it had read of this one."""
        if self.model.running is not None and self.model.ready and self.chat.path:
            self.warm.opened(self.model.running, self.chat.conversation.id)

    def tell_where(self) -> None:
        """Which conversation this is, and how it ends."""
        n = len(self.chat.path)
        complain(f"{self.chat.conversation.title}: {count_text(n, 'message')}")
        for message in self.chat.path[-2:]:
            write(f"\n{words.spoken(message)}\n")
        if self.chat.waits_for_answer:
            complain("it has no answer yet; /again asks it")

    def load(self) -> None:
        """Loads the model, and has it answer what waits for it."""
        if not self.model.load():
            return
        running = self.model.running
        assert running is not None
        self._tell_loaded(running)
        if not self._welcomed:
            self._welcomed = True
            self.think = running.think
            for warning in filter(None, (self.store.warning, *running.warnings)):
                complain(warning)
            complain(f"/help lists commands, {STOP} stops an answer, {LEAVE} leaves")
        if self._asked and self.chat.waits_for_answer:
            self.ask()

    def _tell_loaded(self, running: RunningModel) -> None:
        """The model is there, with what it had read where that was not carried over."""
        if self._welcomed and not running.n_moved:
            self.warm.lost()
        self._come_back()
        complain(words.ready(running))

    def has_model(self) -> RunningModel | None:
        """The one that answers, which may have rested; a word where there is none."""
        if self.model.rests:
            self.load()
        if not self.model.ready:
            complain("the model is not running; /reload loads it")
        return self.model.running if self.model.ready else None

    def rest(self) -> None:
        """Keeps what the model has read, and lets its memory go until it is asked again. From any
        thread."""
        if self.model.running is not None and self.model.ready:
            self.model.ready, self.model.rests = False, True
            self.warm.let_go(self.model.running)

    @contextmanager
    def _rests_in_time(self) -> Iterator[None]:
        """The same, where nothing is written for long."""
        timer = threading.Timer(self._idle_seconds or 0.0, self.rest)
        timer.daemon = True
        if self._idle_seconds is not None:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    # ------------------------------------------------------------ leaving

    def keep_read(self, seconds: float) -> None:
        """Saves what the model has read, so long at most."""
        self._leave()
        until = time.monotonic() + seconds
        told = False
        while self.warm.saving and time.monotonic() < until:
            if not told:
                complain(f"keeping what was read; {STOP} skips it")
                told = True
            if self._keyboard.interrupted:
                return
            time.sleep(LOOK_SECONDS)

    def stop(self, seconds: float) -> None:
        """Stops what is being written, within so many seconds, and has it saved."""
        growing = self._growing
        if growing is None:
            return
        growing.generation.stop()
        until = time.monotonic() + seconds
        while not growing.take().finished and time.monotonic() < until:
            growing.keep()
            time.sleep(LOOK_SECONDS)
        growing.end()

    def close(self, seconds: float) -> str:
        """Waits so long at most for the last save; returns why something is not saved, or ""."""
        self._presence.close()
        self.warm.close()
        self.recorder.close(seconds)
        return self.recorder.problem
