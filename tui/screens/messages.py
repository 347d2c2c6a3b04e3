"""The conversation on the screen, and what the keys do on the message, or the code block, that the
cursor is on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol

from textual import events
from textual.binding import BindingType

from tui.answering import Chat
from tui.answering.words import saved_to
from tui.keymap import Keymap, Place
from tui.screens.bindings import bindings
from tui.screens.line import LineScreen
from tui.storage import StoredMessage
from tui.widgets import Transcript
from tui.widgets.cursor import Picked
from tui.widgets.transcript import WIDTH
from tuner.errors import UsageError
from tuner.safe_text import one_line
from tuner.sampling import Sampling, restated
from tuner.units import count_text

# A file for a code block, by the language of its fence.
_SUFFIXES = {
    "python": "py", "py": "py", "javascript": "js", "js": "js", "typescript": "ts", "ts": "ts",
    "rust": "rs", "bash": "sh", "sh": "sh", "shell": "sh", "c": "c", "cpp": "cpp", "c++": "cpp",
    "java": "java", "go": "go", "html": "html", "css": "css", "json": "json", "yaml": "yaml",
    "toml": "toml", "sql": "sql", "markdown": "md", "ruby": "rb", "xml": "xml",
}  # fmt: skip


class Talk(Protocol):
    """What of the chat this needs."""

    @property
    def chat(self) -> Chat: ...
    @property
    def generating(self) -> bool: ...
    def still_answering(self) -> bool:
        """The same, and says so where it is."""

    async def show_again(self, message_id: str | None = None) -> None:
        """Shows the path, and puts the cursor on a message of it."""

    async def ask_again(self, answer: StoredMessage, sampling: Sampling | None = None) -> None:
        """Asks for another version of an answer."""

    def rewrite(self, question: StoredMessage) -> None:
        """Puts a question into the composer, to be asked in other words."""

    def compare(self, message: StoredMessage | None = None) -> None:
        """Asks the question of a message under two settings."""

    def usual_sampling(self) -> Sampling: ...
    def say(self, text: str) -> None: ...
    def leave_messages(self) -> None:
        """Goes back to the composer."""

    def chosen(self, place: Place | None) -> None:
        """The keys are those of a message, or of selecting in one, or no longer."""

    async def show_through(self, message_id: str, *, cursor: bool = False) -> None:
        """Lets the path lead through a message; `cursor`: which is on it then."""

    def save_changes(self, *messages: StoredMessage) -> None: ...
    def forget_read(self) -> None:
        """What the model has read of the conversation is not to be kept."""

    def open_text(self, text: str, suffix: str) -> None:
        """Shows it in the user's editor."""

    def page_text(self, text: str) -> None:
        """Shows it in the user's pager."""


class Messages(Transcript, can_focus=True, inherit_bindings=False):
    """The transcript, where the keys are those of the message that the cursor is on while it has
    the focus."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.MESSAGE)
    FOCUS_ON_CLICK: ClassVar[bool] = False  # who selects with the mouse goes on writing

    def __init__(self, talk: Talk, keymap: Keymap, width: int = WIDTH):
        """`width`: the most columns that text takes."""
        super().__init__(width)
        self._talk = talk
        self._keymap = keymap
        shown = (f"{keymap.label(f'message.{what}')} {what}" for what in ("copy", "save"))
        self.block_keys = "  ".join(shown)
        self._selecting = keymap.actions(Place.SELECT)
        self._gone: list[tuple[Chat, list[StoredMessage]]] = []  # what was deleted, newest last

    def on_focus(self) -> None:
        if self.cursor.item is None:
            self.cursor.move(-1)
        self._tell_keys()

    def on_blur(self) -> None:
        self.drop_caret()
        self.cursor.put(None)
        self._talk.chosen(None)

    def _tell_keys(self) -> None:
        on_message = Place.MESSAGE if self.cursor.item is not None else None
        self._talk.chosen(Place.SELECT if self.caret is not None else on_message)

    def _message(self) -> StoredMessage | None:
        """The message that it is on; None, with a word, where nothing may be changed."""
        picked = self.cursor.picked
        if picked is None:
            self._talk.say("no message is chosen")
        elif not self._talk.still_answering():
            return picked.message
        return None

    # ------------------------------------------------------------ going about

    def action_move(self, step: int) -> None:
        self.cursor.move(step)

    def action_move_message(self, step: int) -> None:
        self.cursor.move(step, messages_only=True)

    def action_fold(self) -> None:
        self.fold()

    def action_leave(self) -> None:
        self._talk.leave_messages()

    # ------------------------------------------------------------ selecting

    async def on_key(self, event: events.Key) -> None:
        """While one selects, keys are heard here, before they are those of a message."""
        extends = event.key.startswith("shift+")
        if self.caret is None and event.key in self._keymap.keys("message.select"):
            self.action_select()
            if not extends:
                event.stop()
                event.prevent_default()
                return
        action = self._selecting.get(event.key)
        if self.caret is None or action is None:
            return
        event.stop()
        event.prevent_default()
        if extends:
            self.caret.hold()
        await self.run_action(action)

    def action_select(self) -> None:
        if self.put_caret():
            self._tell_keys()
        else:
            self._talk.say("no text of a message is in view")

    def action_hold(self) -> None:
        if self.caret is not None:
            self.caret.hold()
            self.caret_moved()

    def action_caret(self, how: str, step: int) -> None:
        if self.caret is not None:
            getattr(self.caret, how)(step)
            self.caret_moved()
            self._tell_keys()

    def action_copy_selected(self) -> None:
        if self.caret is not None:
            found = self.get_selection(self.caret.selection or self.caret.line)
            text = found[0] if found is not None else ""
            self.app.copy_to_clipboard(text)
            n = text.count("\n") + 1
            size = (n, "line") if n > 1 else (len(text), "character")
            self._leave_selecting()
            self._talk.say(f"{count_text(*size)} copied")

    def action_leave_selecting(self) -> None:
        """Lets go what is selected, then the caret."""
        if self.caret is not None and self.caret.anchor is not None:
            self.caret.anchor = None
            self.caret_moved()
        else:
            self._leave_selecting()

    def _leave_selecting(self) -> None:
        self.drop_caret()
        self._tell_keys()

    # ------------------------------------------------------------ what it says

    def action_copy(self) -> None:
        if picked := self.cursor.picked:
            self.app.copy_to_clipboard(picked.text)
            self._talk.say(f"{_name(picked)} copied")

    def action_open(self) -> None:
        if picked := self.cursor.picked:
            self._talk.open_text(picked.text, _suffix(picked))

    def action_page_through(self) -> None:
        if picked := self.cursor.picked:
            self._talk.page_text(picked.text)

    def action_save(self) -> None:
        picked = self.cursor.picked
        if picked is None:
            return

        def named(name: str | None) -> None:
            if name is not None:
                path = Path(name).expanduser()
                work = partial(self._write, path, picked)
                self.run_worker(work, thread=True, group="save")

        suggestion = f"{'answer' if picked.item.block is None else 'code'}.{_suffix(picked)}"
        self.app.push_screen(LineScreen("Save to", suggestion), named)

    def _write(self, path: Path, picked: Picked) -> None:
        """In a thread."""
        said = saved_to(path, picked.text, _name(picked))
        self.app.call_from_thread(self._talk.say, said)

    # ------------------------------------------------------------ versions

    async def action_version(self, step: int) -> None:
        message = self._message()
        if message is None:
            return
        tree = self._talk.chat.tree
        if there := tree.version(message, step):
            await self._talk.show_through(there, cursor=True)
        elif len(tree.versions(message)) == 1:
            self._talk.say("it has one version")
        else:
            self._talk.say(f"that is the {'first' if step < 0 else 'last'} version")

    async def action_again(self) -> None:
        await self._again()

    async def _again(self, sampling: Sampling | None = None) -> None:
        """Another answer to the question, or in place of the answer."""
        message = self._message()
        if message is None:
            return
        path = self._talk.chat.path
        if message.role == "user":
            following = [m for m in path if m.parent_id == message.id]
            if not following:
                self._talk.say("it has no answer yet")
                return
            message = following[0]
        await self._talk.ask_again(message, sampling)

    def action_again_otherwise(self) -> None:
        if self._message() is None:
            return
        usual = self._talk.usual_sampling()

        def said(text: str | None) -> None:
            if text is None:
                return
            try:
                sampling = restated(text, usual)
            except UsageError as error:
                self._talk.say(str(error))
            else:
                self.run_worker(self._again(sampling), group="regenerate", exclusive=True)

        title = "Another answer, drawn how?"
        value = f"temperature {usual.temperature:g}, top-p {usual.top_p:g}"
        self.app.push_screen(LineScreen(title, value), said)

    def action_compare(self) -> None:
        if message := self._message():
            self._talk.compare(message)

    def action_edit(self) -> None:
        message = self._message()
        if message is None:
            return
        if message.role != "user":
            self._talk.say("only what you wrote can be edited")
        else:
            self._talk.rewrite(message)

    async def action_branch(self) -> None:
        message = self._message()
        if message is None:
            return
        path = self._talk.chat.path
        if message.role == "user":  # after its answer, or two questions would stand in a row
            message = next((m for m in path if m.parent_id == message.id), message)
        self._talk.chat.tree.end_at(message.id)
        self._talk.save_changes()
        await self._talk.show_again()
        self._talk.leave_messages()
        self._talk.say("the next message goes on from here; what followed is kept")

    async def action_delete(self) -> None:
        message = self._message()
        if message is None:
            return
        chat = self._talk.chat
        gone = chat.tree.remove(message.id)
        self._gone.append((chat, gone))
        self._talk.forget_read()
        self._talk.save_changes(*(chat.tree[each.id] for each in gone))
        await self._talk.show_again(chat.tree.head)
        key = self._keymap.label("message.undo")
        self._talk.say(f"{count_text(len(gone), 'message')} deleted · {key} undoes it")

    async def action_undo(self) -> None:
        chat = self._talk.chat
        of_this = [i for i, (of, _) in enumerate(self._gone) if of is chat]
        if self._talk.generating or not of_this:
            self._talk.say("nothing to undo")
            return
        _, gone = self._gone.pop(of_this[-1])
        chat.tree.restore(gone)
        self._talk.save_changes(*gone)
        await self._talk.show_again(gone[0].id)
        self._talk.say("it is back")


def _name(picked: Picked) -> str:
    """What it is, in a word or two."""
    if picked.item.block is not None:
        n = len(picked.text.splitlines())
        lines = count_text(n, "line")
        return f"{one_line(picked.language)} block of {lines}".strip()
    return "question" if picked.message.role == "user" else "answer"


def _suffix(picked: Picked) -> str:
    if picked.item.block is None:
        return "md"
    return _SUFFIXES.get(picked.language.lower(), "txt")
