"""Where the user writes."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from textual import events
from textual.binding import Binding
from textual.content import Content
from textual.message import Message
from textual.widgets import TextArea
from textual.widgets.text_area import Location

from tui.composing import commands, completion
from tui.composing.attaching import looked_at
from tui.composing.draft import Draft
from tui.composing.history import History
from tui.composing.mentions import being_typed, dropped, written
from tui.keymap import Keymap, Place
from tui.widgets.folding import FoldingTextArea
from tui.widgets.keystrokes import Keystrokes
from tui.widgets.newest import Newest
from tui.widgets.offers import Offers
from tuner.safe_text import printable

# What the text area's own keys do, by key.
_EDITS = {
    key: binding.action
    for binding in TextArea.BINDINGS
    if isinstance(binding, Binding)
    for key in binding.key.split(",")
}
DROP_SECONDS = 0.3  # that a look at what was dropped may take; after it, it is a text


class Prompt(FoldingTextArea):
    """Several lines. Its keys are heard here and not as bindings of Textual's: one with priority
    would overtake letters that are still on their way, one without would come after the text."""

    class Submitted(Message):
        """The user sends the text. It stays until `take` is called."""

    class Said(Message):
        """Something to tell in a few words."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Named(Message):
        """Names for what is being typed."""

        def __init__(self, typed: str, choices: Sequence[completion.Choice]) -> None:
            super().__init__()
            self.typed = typed
            self.choices = choices

    def __init__(self, keymap: Keymap, placeholder: str = "", folder: Path | None = None) -> None:
        """`folder`: where names of files are seen from, the current one by default."""
        super().__init__(placeholder)
        self.cursor_blink = False  # two paintings a second for nothing: at rest, nothing is drawn
        self.keystrokes = Keystrokes()
        self.offers = Offers(self._picked)
        self.folder = folder or Path.cwd()
        self._keymap = keymap
        self._actions = keymap.actions(Place.PROMPT)
        self._history = History()
        self._recalled = ""
        self._names = Newest(self, self._look_up, "names")
        self._asked: str | None = None  # the name that was looked up last
        self._declined: str | None = None  # the one for which nothing is to be offered

    # ------------------------------------------------------------ the draft

    def restore(self, draft: Draft) -> None:
        """Puts a draft before what has been written meanwhile."""
        self.folds |= draft.folds
        if draft.text:
            between = "\n" if self.text else ""
            self.text = f"{printable(draft.text)}{between}{self.text}"
            self.move_cursor(self.document.end)

    def put(self, draft: Draft) -> None:
        """Puts another draft in the place of this one; Ctrl+Z takes that back."""
        self.folds |= draft.folds
        self.replace_all(printable(draft.text))

    def put_away(self) -> None:
        """Another conversation's draft is to come: nothing of this one stays."""
        self.folds.clear()
        self.text = ""
        self.offers.offer(())

    def rewrite(self, whole: str) -> None:
        """Puts another text in the place of all that is written; Ctrl+Z takes that back."""
        self.put(self.draft.rewritten(whole))

    def take(self) -> Draft:
        """What is written, remembered and cleared."""
        draft = self.draft
        self._history.add(draft.whole)
        self._recalled = ""
        self.replace_all("")
        self.offers.offer(())
        self.keystrokes.rest()
        return draft

    def wipe(self) -> bool:
        """Clears what is written, if there is something; Ctrl+Z brings it back."""
        if not self.text:
            return False
        self.replace_all("")
        return True

    def show_size(self, size: str) -> None:
        """How long the draft is, in the border."""
        self.border_subtitle = Content(size)

    def show_purpose(self, purpose: str) -> None:
        """What becomes of the draft, in the border; "" where it is a usual question."""
        self.border_title = Content(purpose) if purpose else None

    # ------------------------------------------------------------ keys

    async def on_key(self, event: events.Key) -> None:
        self.keystrokes.key()
        self.call_after_refresh(self.keystrokes.key_shown)
        action = self._actions.get(event.key)
        if event.key == "escape" and self.offers.choices:  # Esc stops an answer elsewhere
            self._decline()
            handled = True
        else:
            # One that says False leaves the key to the text: Up and Down also move the cursor.
            handled = action is not None and getattr(self, f"action_{action}")() is not False
        # The text area's own as well: Ctrl+U must not take what is typed after it.
        if not handled and event.key in _EDITS:
            await self.run_action(_EDITS[event.key])
            handled = True
        if not handled and _is_text(event.character):
            self.replace(event.character or "", *self.selection, maintain_selection_offset=False)
            handled = True
        if handled:
            event.stop()
            event.prevent_default()

    def action_send(self) -> None:
        offered = self.offers.choice
        command = offered is not None and self.text.startswith("/")
        if offered is not None and not command and offered.text != self._typed:
            self.action_take()
        elif self.text.strip():
            if offered is not None and command:  # the rest of it need not be typed
                self.replace_all(offered.text)
            self.offers.offer(())
            self.post_message(self.Submitted())

    def action_newline(self) -> None:
        self.insert("\n")

    def action_earlier(self) -> bool:
        if self.offers.choices:
            self.offers.move(-1)
            return True
        return (
            self._may_recall and self.cursor_at_first_line and self._recall(self._history.earlier())
        )

    def action_later(self) -> bool:
        if self.offers.choices:
            self.offers.move(1)
            return True
        return (
            bool(self._recalled)
            and self.cursor_at_last_line
            and self._recall(self._history.later())
        )

    def action_keys(self) -> bool:
        if self.text:
            return False
        self.call_later(self.app.run_action, "app.keys")
        return True

    def action_take(self) -> bool:
        """What is offered takes the place of what is being typed."""
        choice = self.offers.choice
        if choice is None:
            return False
        if choice.text.startswith("/") and self.text.startswith("/"):
            self.replace_all(choice.text)
            return True
        row, column = self.cursor_location
        typed = being_typed(self.document.get_line(row)[:column])
        if typed is not None:
            name = written(choice.text)
            text = name.removesuffix('"') if choice.more else f"{name} "
            self.history.checkpoint()
            self.replace(text, (row, typed[0]), (row, column), maintain_selection_offset=False)
        self.offers.offer(())
        return True

    def action_unfold(self) -> None:
        if not self.unfold():
            self.post_message(self.Said("nothing is folded here"))

    # ------------------------------------------------------------ history

    def set_history(self, messages: list[str]) -> None:
        """The user's messages of this conversation, oldest first."""
        self._history.own(messages)
        self._recalled = ""

    def set_all_history(self, messages: list[str]) -> None:
        """Those of all conversations, oldest first."""
        self._history.everywhere(messages)

    def asked(self, *, everywhere: bool) -> list[str]:
        """What was asked before in this conversation, or in all; the newest first."""
        return self._history.asked(everywhere=everywhere)

    def recall(self, question: str) -> None:
        """Puts a question from before in the place of what is written; Ctrl+Z takes that back."""
        self._recalled = self.as_shown(printable(question))
        self.replace_all(self._recalled)

    @property
    def _may_recall(self) -> bool:
        return not self.text or self.text == self._recalled

    def _recall(self, text: str | None) -> bool:
        if text is None:
            return False
        self._recalled = self.as_shown(printable(text))
        self.text = self._recalled
        self.move_cursor(self.document.end)
        return True

    # ------------------------------------------------------------ pastes

    async def on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        event.stop()
        text = event.text
        before = self.selection
        self._type(self.as_shown(text))
        if readings := dropped(text):
            try:
                async with asyncio.timeout(DROP_SECONDS):
                    files = await asyncio.to_thread(looked_at, readings, self.folder)
            except TimeoutError:
                return
            if files is not None:
                self._drop(files, min(before))

    def _type(self, text: str) -> None:
        self.history.checkpoint()
        if result := self._replace_via_keyboard(text, *self.selection):
            self.move_cursor(result.end_location)

    def _drop(self, files: Sequence[tuple[str, str]], start: Location) -> None:
        """Names files in the place of their pasted paths; Ctrl+Z brings the paths back."""
        for path, refused in files:
            folder = refused == "is a folder" and len(files) == 1
            if (refused and not folder) or not written(path):
                word = refused or "has an odd name"
                self.post_message(self.Said(f"{path} {word}: only its path is there"))
                return
        (path, refused), *_ = files
        if refused:  # one folder: what is in it is offered
            name = written(path.rstrip("/") + "/").removesuffix('"')
        else:
            name = "".join(f"{written(path)} " for path, _ in files)
        self.history.checkpoint()
        self.replace(name, start, self.cursor_location, maintain_selection_offset=False)

    def relabel(self, name: str, n_tokens: int) -> str:
        recalled = self._recalled == self.text
        better = super().relabel(name, n_tokens)
        if recalled:  # the walk through the history goes on
            self._recalled = self.text
        return better

    # ------------------------------------------------------------ what is offered

    def on_text_area_changed(self) -> None:
        self._consider()

    def on_text_area_selection_changed(self) -> None:
        self._consider()

    def _picked(self) -> None:
        self.action_take()
        self.focus()

    @property
    def _typed(self) -> str | None:
        """The name of a file that is being typed at the cursor."""
        row, column = self.cursor_location
        typed = being_typed(self.document.get_line(row)[:column])
        return typed[1] if typed is not None else None

    def _consider(self) -> None:
        """Looks for what may take the place of what is being typed."""
        first = self.document.get_line(0)
        typed = self._typed
        recalled = bool(self._recalled) and self.text == self._recalled
        if recalled:
            self._declined = typed
        elif typed != self._declined:
            self._declined = None
        if first.startswith("/") and self.document.line_count == 1 and not recalled:
            self._offer(first, list(commands.choices(first, self._keymap)))
        elif typed is None or typed == self._declined:
            self.offers.offer(())
        elif typed != self._asked:
            self._names.ask(typed)
        self._asked = typed

    def _look_up(self, typed: str) -> None:
        self.post_message(self.Named(typed, completion.names(typed, self.folder)))

    def on_prompt_named(self, message: Named) -> None:
        message.stop()
        if message.typed == self._typed != self._declined:
            self._offer(message.typed, message.choices)

    def _offer(self, typed: str, choices: Sequence[completion.Choice]) -> None:
        """Shows what may stand there, unless it is what stands there."""
        only = len(choices) == 1 and choices[0].text == typed
        self.offers.offer(() if only else choices)

    def _decline(self) -> None:
        self._declined = self._typed
        self.offers.offer(())


def _is_text(character: str | None) -> bool:
    """What Textual takes for no text though it is: joiners, as emoji and Persian words have them,
    and spaces of other widths, as one types them between Japanese words (Textual 8.2)."""
    if character is None or len(character) != 1 or character.isprintable():
        return False
    return unicodedata.category(character) in ("Cf", "Zs") and printable(character) == character
