"""What is being written: kept for its conversation, weighed while one writes, made a question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from textual.app import SuspendNotSupported
from textual.screen import Screen

from tui.answering import Chat
from tui.composing import commands, editor
from tui.composing.attaching import Attaching
from tui.composing.draft import Draft
from tui.composing.files import bytes_text
from tui.composing.mentions import mentions
from tui.composing.parts import Question, asked, composed
from tui.keymap import Action
from tui.screens.full_context import FullContext
from tui.screens.weighing import Moment, Wanted, Weighing, Weight
from tui.storage import Conversations, Recorder
from tui.widgets import Plain, Prompt
from tuner.errors import KvchatError
from tuner.units import count_text

KEEP_SECONDS = 1.0  # the most of a draft that is lost if the process is killed
WEIGH_SECONDS = 0.3  # after a change, until its tokens are counted
NOTES = 4  # rows above the prompt
_ROLE_BYTES = 64  # more than a template puts around a message


class Composing:
    """Lives on the screen's thread; reads, counts and saves in others."""

    def __init__(
        self,
        screen: Screen[Any],
        prompt: Prompt,
        store: Conversations,
        recorder: Recorder,
        now: Callable[[], Moment],
        say: Callable[[str], None],
        full: FullContext,
        unfold_key: str,
    ):
        """`now`: what a draft would be sent to; `say`: tells something in a few words;
        `full`: hears what it comes to; `unfold_key`: as people write it."""
        self.notes = Plain(id="draft-notes")
        self._screen = screen
        self._prompt = prompt
        self._store = store
        self._recorder = recorder
        self._now = now
        self._say = say
        self._full = full
        self._unfold_key = unfold_key
        self._weighing = Weighing(screen, Attaching(prompt.folder))
        self._key: str | None = None  # of the conversation that the draft belongs to
        self._kept = Draft()  # as it was saved last
        self._read = False  # what was saved of it before is known, and nothing overwrites it
        self._due: set[str] = set()  # what is done soon
        self._sending: Draft | None = None  # waits for its weight
        self._history_read = False
        self._lines: tuple[str, ...] = ()  # of the notes

    # ------------------------------------------------------------ kept

    def show(self, chat: Chat) -> None:
        """Another conversation is open: its draft takes the place of the other one's, which is
        kept; its questions, and those of all conversations, can be walked through."""
        self._prompt.set_history(
            [asked(m.content, m.parts).whole for m in chat.path if m.role == "user"]
        )
        key = chat.conversation.id if chat.path else ""
        if key == self._key:
            return
        if self._key is not None:
            self.keep()
            self._prompt.put_away()
        self._key, self._kept, self._read = key, Draft(), False
        self._screen.run_worker(self._bring_back(key), group="draft")

    async def _bring_back(self, key: str) -> None:
        """Puts the draft of a conversation into the prompt as soon as it is read."""
        draft = Draft()
        try:
            draft = await asyncio.to_thread(self._store.draft, key)
            if not self._history_read:
                self._history_read = True
                self._prompt.set_all_history(await asyncio.to_thread(self._store.prompts))
        except KvchatError:
            pass  # whoever saves next hears of it
        if self._key == key:
            self._kept, self._read = draft, True
            self._prompt.restore(draft)

    def moves_on(self) -> None:
        """The conversation is gone: what is being written is a new one's."""
        self._key = ""

    def keep(self) -> None:
        """Saves the draft now."""
        draft = self._prompt.draft
        if self._key is not None and self._read and draft != self._kept:
            self._kept = draft
            self._recorder.keep_draft(self._key, draft)

    def sent(self, chat: Chat, draft: Draft) -> None:
        """The draft has become the last question of this conversation."""
        self._recorder.remember(chat.path[-1].id, draft.whole)
        if self._key is not None and self._read:
            self._recorder.keep_draft(self._key, Draft())
        self._key, self._kept, self._read = chat.conversation.id, Draft(), True

    # ------------------------------------------------------------ while one writes

    def changed(self) -> None:
        """The draft is another one, or what it would be sent to."""
        if self._sending is not None and self._prompt.draft != self._sending:
            self._sending = None
        self._soon("keep", KEEP_SECONDS, self.keep)
        self._soon("weigh", WEIGH_SECONDS, self.weigh)

    def _soon(self, name: str, seconds: float, work: Callable[[], None]) -> None:
        """Does that once in so many seconds, however often it is asked for."""
        if name not in self._due:
            self._due.add(name)
            self._screen.set_timer(seconds, partial(self._do, name, work))

    def _do(self, name: str, work: Callable[[], None]) -> None:
        self._due.discard(name)
        work()

    def weigh(self) -> None:
        """Counts the draft as it is now; a command is none."""
        draft = self._prompt.draft
        if draft.text and commands.parted(draft.text) is None:
            exact = self._sending is not None
            self._weighing.ask(Wanted(draft, self._prompt.uncounted, self._now(), exact))
        else:
            self._tell(None)

    def weighed(self, weight: Weight) -> Question | None:
        """What a draft comes to is known; gives back the question that waited for it."""
        if weight.draft != self._prompt.draft:
            return None  # a newer one follows
        if weight.n_folds:  # their labels tell it from now on
            for name, n_tokens in weight.n_folds.items():
                self._prompt.relabel(name, n_tokens)
            if self._sending is not None:
                self._sending = self._prompt.draft
            self.weigh()
            return None
        self._tell(weight)
        if self._sending != weight.draft or not weight.exact:
            return None
        self._sending = None
        return self._sendable(weight)

    def _tell(self, weight: Weight | None) -> None:
        """Shows it: the tokens in the prompt's border, the rest above."""
        self._full.weighed(weight)
        opens = f"{self._unfold_key} unfolds · " if weight and weight.draft.folds else ""
        self._prompt.show_size(f"{opens}{size(weight)}" if weight is not None else "")
        lines = tuple(told(weight)) if weight is not None else ()
        more = len(lines) - NOTES
        if more > 0:
            lines = (*lines[: NOTES - 1], f"… and {more + 1} more")
        if lines != self._lines:  # another text is another layout
            self._lines = lines
            self.notes.show("\n".join(lines))
            self.notes.display = bool(lines)

    # ------------------------------------------------------------ sent

    def command(self) -> tuple[Action, str] | None:
        """The command that the draft is, and what follows it. Raises UnknownCommandError."""
        return commands.command(self._prompt.text)

    def question(self) -> Question | None:
        """What is sent of the draft; None: it must be read or counted first, or cannot be sent,
        which is said."""
        draft, moment = self._prompt.draft, self._now()
        if not draft.text.strip():  # a key that came after Enter took it away
            return None
        text = Draft(commands.as_text(draft.text), draft.folds)
        if any(mentions(draft.text)) or (moment.running is not None and not fits(text, moment)):
            self._sending = draft
            self.weigh()
            return None
        return composed(text)

    def _sendable(self, weight: Weight) -> Question | None:
        if weight.attached.problems:
            self._say("this cannot be sent as it is")
        elif weight.too_many:
            self._full.refuse()
        else:
            return weight.question
        return None

    # ------------------------------------------------------------ elsewhere

    def edit(self) -> None:
        """Lets the user's editor have the draft."""
        self.keep()
        whole = self._prompt.draft.whole
        changed = self.lend(whole)
        if changed is not None and changed != whole:
            self._prompt.rewrite(changed)

    def lend(self, text: str, suffix: str = "md") -> str | None:
        """Opens a text in the user's editor and returns it as that leaves it; None, with a word,
        where there is none. Blocks: the screen is the editor's meanwhile."""
        with self._lent():
            command = editor.editor()
            with self._screen.app.suspend():
                return editor.edited(text, command, suffix)
        return None

    def page(self, text: str) -> None:
        """Shows a text in the user's pager, or says why not. Blocks likewise."""
        with self._lent():
            command = editor.pager()
            with self._screen.app.suspend():
                editor.paged(text, command)

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """What goes wrong while the terminal is another program's is said."""
        try:
            yield
        except KvchatError as error:
            self._say(str(error))
        except SuspendNotSupported:
            self._say("this terminal cannot be lent to another program")


def fits(draft: Draft, moment: Moment) -> bool:
    """Whether it certainly does, without counting: a text has no more tokens than bytes."""
    texts = [*(f"{m.content}{m.reasoning}" for m in moment.before), draft.whole]
    n_bytes = sum(len(text.encode(errors="replace")) + _ROLE_BYTES for text in texts)
    return n_bytes < moment.n_ctx


def size(weight: Weight) -> str:
    """How long the draft is with its files, in tokens where they are counted."""
    if weight.n_question is not None:
        return count_text(weight.n_question, "token")
    content = weight.question.content
    n_lines = content.count("\n") + 1
    return f"{count_text(n_lines, 'line')}, {len(content):,} characters"


def told(weight: Weight) -> Iterator[str]:
    """What one should know before it is sent, a line each."""
    for sentence in weight.attached.problems:
        yield f"! {sentence}"
    for file, n_tokens in zip(weight.attached.files, weight.n_files, strict=True):
        encoding = () if file.encoding == "UTF-8" else (file.encoding,)
        tokens = () if n_tokens is None else (f"{n_tokens:,} tokens",)
        yield " · ".join((file.name, file.kind, *encoding, bytes_text(file.n_bytes), *tokens))
    yield from weight.attached.remarks
