"""What a key does: one row per action. The screens' bindings, the hints, the command palette, the
help screen, the welcome and README's table are made from it, and keys are remapped by a row's id.

Nothing here imports Textual: `python -m tui.keymap` prints README's table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, Flag, auto


class Place(Enum):
    """Where an action's key is heard; the value says it in words."""

    PROMPT = "While you write"
    CHAT = "In the chat"
    MESSAGE = "On a message"
    SELECT = "While you select in a message"
    APP = "Anywhere"
    HISTORY = "While you search what you asked"
    LIST = "In the list of conversations"
    LINE = "While you fill in a line"
    BRANCHES = "In the versions of a conversation"
    COMPARE = "While two answers are compared"
    REPORT = "In the fit report"
    DETAILS = "In the plots of the session"
    EXPLORER = "In the fit explorer"
    CONTEXT = "Where room is made in the context"
    HELP = "In this list of keys"

    @property
    def takes_text(self) -> bool:
        """Keys that write or edit belong to a text there."""
        return self in _WRITING

    def meets(self, other: Place) -> bool:
        """Whether a key is heard in both at once."""
        return self is other or Place.APP in (self, other) or {self, other} == _CHAT


_CHAT = {Place.CHAT, Place.PROMPT}
_WRITING = {
    Place.PROMPT, Place.CHAT, Place.APP, Place.HISTORY, Place.LIST, Place.LINE, Place.COMPARE,
}  # fmt: skip


class Show(Flag):
    """Where an action is shown, beside the help screen and README, which show them all."""

    NOWHERE = 0
    IDLE = auto()  # hints of a place where nothing is going on
    ANSWERING = auto()  # hints of the chat while an answer is written
    DEAD = auto()  # hints of the chat where no model runs
    PALETTE = auto()
    WELCOME = auto()


@dataclass(frozen=True, slots=True)
class Action:
    """One row. `opened_by`: the row whose keys opened this place; they are keys of this row as
    well. `fixed`: the key belongs to a widget of Textual's and cannot be remapped."""

    id: str
    keys: tuple[str, ...]  # as Textual names them; the first is the one that is told
    action: str  # the method of the place's screen or widget, without `action_`
    place: Place
    title: str  # for the palette
    does: str  # a sentence, the key its subject
    hint: str = ""  # a word or two beside the key
    show: Show = Show.NOWHERE
    priority: bool = True  # heard before the focused widget
    opened_by: str = ""
    fixed: bool = False
    slash: str = ""  # the command of that name, without the slash
    takes: str = ""  # what may follow that


_IDLE = Show.IDLE | Show.DEAD
_ALWAYS = _IDLE | Show.ANSWERING

# In the order in which hints are shown: those at the end give way where the line is short.
ACTIONS = (
    Action("answer.stop", ("escape",), "stop", Place.CHAT, "Stop",
           "Stops the answer and keeps what is written, or cancels a load.", "stop",
           Show.ANSWERING | Show.PALETTE, priority=False),
    Action("prompt.send", ("enter",), "send", Place.PROMPT, "Send",
           "Sends the message.", "send", Show.IDLE | Show.WELCOME),
    Action("model.reload", ("f5",), "reload", Place.CHAT, "Reload",
           "Loads the model again where it does not run.", "load the model", Show.DEAD,
           slash="reload"),
    Action("model.pause", ("alt+p",), "pause", Place.CHAT, "Pause",
           "Lets the model's memory go; the next message brings it back.", "pause", Show.PALETTE,
           slash="pause"),
    Action("prompt.newline", ("ctrl+j", "shift+enter", "alt+enter", "ctrl+enter"), "newline",
           Place.PROMPT, "New line", "Begins a new line.", "newline", _ALWAYS | Show.WELCOME),
    Action("app.keys", ("f1",), "keys", Place.APP, "Keys",
           "Lists all keys.", "keys", _IDLE | Show.PALETTE | Show.WELCOME, slash="help"),
    Action("model.report", ("f2",), "report", Place.CHAT, "Fit report",
           "Shows how the model is loaded, predicted and actual.", "fit", _ALWAYS | Show.PALETTE,
           slash="fit"),
    Action("model.details", ("f9",), "details", Place.CHAT, "Session",
           "Plots speed, context, memory and heat of this session.", "session", Show.PALETTE,
           slash="session"),
    Action("model.explore", ("f3",), "explore", Place.CHAT, "Fit explorer",
           "Tries out other settings, and loads the model with them.", "explore",
           _ALWAYS | Show.PALETTE, slash="explore"),
    Action("conversation.list", ("ctrl+o",), "conversations", Place.CHAT, "Conversations",
           "Lists conversations, to open, search, rename or delete.", "chats",
           _IDLE | Show.PALETTE, slash="open"),
    Action("conversation.branches", ("ctrl+b",), "branches", Place.CHAT, "Versions",
           "Shows all versions of the conversation as a tree.", "versions", Show.PALETTE,
           slash="versions"),
    Action("conversation.new", ("ctrl+n",), "new_chat", Place.CHAT, "New chat",
           "Begins a new conversation.", "new", _IDLE | Show.PALETTE, slash="new"),
    Action("answer.regenerate", ("alt+r",), "regenerate", Place.CHAT, "Regenerate",
           "Asks for another answer; the old one is kept.", "again", _IDLE | Show.PALETTE,
           slash="again"),
    Action("answer.compare", ("f10",), "compare", Place.CHAT, "Compare",
           "Asks the last question under two settings, side by side.", "compare", Show.PALETTE,
           slash="compare"),
    Action("app.palette", ("ctrl+p",), "command_palette", Place.APP, "Commands",
           "Shows all commands.", "all", _IDLE | Show.WELCOME, slash="commands"),
    Action("answer.think", ("f6",), "think", Place.CHAT, "Thinking",
           "Changes how much the model thinks, from the next answer on.", "thinking",
           Show.PALETTE, slash="think"),
    Action("prompt.unfold", ("f4",), "unfold", Place.PROMPT, "Unfold",
           "Opens the folded paste at the cursor, or else the first."),
    Action("prompt.edit", ("ctrl+g",), "edit", Place.CHAT, "Edit in $EDITOR",
           "Opens what you write in your editor.", "editor", Show.PALETTE, slash="edit"),
    Action("prompt.search", ("ctrl+r",), "history", Place.CHAT, "Search what you asked",
           "Searches what you asked before, as in a shell.", "history", Show.PALETTE,
           slash="history"),
    Action("model.context", ("f7",), "context", Place.CHAT, "Context",
           "Says what fills the context, and makes room in it.", "context", Show.PALETTE,
           slash="context", takes="TOKENS"),
    Action("model.cache", ("alt+k",), "cache", Place.CHAT, "Cache",
           "Says what types and contexts the cache could have.", "cache",
           Show.PALETTE, slash="kv", takes="TYPES"),
    Action("model.balance", ("alt+b",), "balance", Place.CHAT, "Better plan",
           "Loads the better plan that was offered.", "better plan",
           Show.PALETTE, slash="balance"),
    Action("prompt.keys", ("question_mark",), "keys", Place.PROMPT, "Keys",
           "Lists all keys where nothing is written.", fixed=True),
    Action("answer.copy", ("ctrl+y",), "copy_answer", Place.CHAT, "Copy last answer",
           "Copies the last answer to the clipboard.", "copy", Show.PALETTE, slash="copy"),
    Action("chat.interrupt", ("ctrl+c",), "interrupt", Place.CHAT, "Interrupt",
           "Copies, stops an answer, clears the draft; twice, it quits."),
    Action("view.up", ("pageup",), "page(-1)", Place.CHAT, "Scroll up", "Scrolls up."),
    Action("view.down", ("pagedown",), "page(1)", Place.CHAT, "Scroll down", "Scrolls down."),
    Action("view.start", ("ctrl+home",), "to_start", Place.CHAT, "First message",
           "Goes to the first message."),
    Action("view.end", ("ctrl+end",), "to_end", Place.CHAT, "Newest message",
           "Goes to the newest message."),
    Action("view.thought", ("ctrl+t",), "fold_thought", Place.CHAT, "Thought",
           "Shows or hides a thought, or a question's files and pastes.", "thought", Show.PALETTE),
    Action("view.wrap", ("alt+w",), "wrap_code", Place.CHAT, "Wrap code",
           "Wraps long lines of code, or cuts them again.", "wrap", Show.PALETTE),
    Action("view.right", ("alt+right",), "shift_code(1)", Place.CHAT, "Right",
           "Moves long lines of code, to see more at their right."),
    Action("view.left", ("alt+left",), "shift_code(-1)", Place.CHAT, "Left",
           "Moves them back."),
    Action("prompt.earlier", ("up",), "earlier", Place.PROMPT, "Earlier message",
           "Brings back an earlier message where nothing is written."),
    Action("prompt.later", ("down",), "later", Place.PROMPT, "Later message",
           "Goes back to the later ones."),
    Action("view.messages", ("ctrl+up", "alt+up"), "to_messages", Place.CHAT, "Messages",
           "Goes to the messages, to copy, edit or ask again.", "messages",
           _IDLE | Show.PALETTE),
    Action("version.back", ("ctrl+pageup",), "version(-1)", Place.CHAT, "Version before",
           "Shows the version before, of the last message.", show=Show.PALETTE),
    Action("version.on", ("ctrl+pagedown",), "version(1)", Place.CHAT, "Next version",
           "Shows the next version of it.", show=Show.PALETTE),
    Action("answer.continue", ("f8",), "go_on", Place.CHAT, "Continue",
           "Goes on with an answer that was stopped or cut.", "continue", Show.PALETTE,
           slash="continue"),
    Action("message.copy", ("y", "c"), "copy", Place.MESSAGE, "Copy",
           "Copies the message, or the code block.", "copy", Show.IDLE, priority=False),
    Action("message.select", ("v", "shift+up", "shift+down", "shift+left", "shift+right"), "select",
           Place.MESSAGE, "Select", "Selects a part of the message, to copy it.", "select",
           Show.IDLE, priority=False),
    Action("message.leave", ("escape", "i", "tab"), "leave", Place.MESSAGE, "Back",
           "Goes back to the composer.", "back", Show.IDLE, priority=False),
    Action("message.up", ("up", "k"), "move(-1)", Place.MESSAGE, "Up",
           "Goes to the code block or message before.", "up", Show.IDLE, priority=False),
    Action("message.down", ("down", "j"), "move(1)", Place.MESSAGE, "Down",
           "Goes to the next one.", "down", Show.IDLE, priority=False),
    Action("message.before", ("left", "h"), "version(-1)", Place.MESSAGE, "Version before",
           "Shows the version before.", "version", Show.IDLE, priority=False),
    Action("message.next", ("right", "l"), "version(1)", Place.MESSAGE, "Next version",
           "Shows the next version.", "version", Show.IDLE, priority=False),
    Action("message.edit", ("e",), "edit", Place.MESSAGE, "Edit",
           "Asks a question in other words; the old ones are kept.", "edit", Show.IDLE,
           priority=False),
    Action("message.again", ("r",), "again", Place.MESSAGE, "Again",
           "Asks for another answer; the old one is kept.", "again", Show.IDLE, priority=False),
    Action("message.otherwise", ("R",), "again_otherwise", Place.MESSAGE, "Again otherwise",
           "The same with another temperature, or whatever else.", priority=False),
    Action("message.compare", ("x",), "compare", Place.MESSAGE, "Compare",
           "Asks the question under two settings, side by side.", priority=False),
    Action("message.branch", ("b",), "branch", Place.MESSAGE, "Branch",
           "Goes on from this message; what followed is kept.", "branch", Show.IDLE,
           priority=False),
    Action("message.save", ("s",), "save", Place.MESSAGE, "Save",
           "Saves the message, or the code block, to a file.", "save", Show.IDLE, priority=False),
    Action("message.open", ("o",), "open", Place.MESSAGE, "Open",
           "Opens it in your editor.", "open", Show.IDLE, priority=False),
    Action("message.page", ("p",), "page_through", Place.MESSAGE, "Page",
           "Shows it in your pager.", "page", Show.IDLE, priority=False),
    Action("message.delete", ("d", "delete"), "delete", Place.MESSAGE, "Delete",
           "Deletes the message and what follows it.", "delete", Show.IDLE, priority=False),
    Action("message.undo", ("u",), "undo", Place.MESSAGE, "Undo",
           "Brings back what was deleted.", priority=False),
    Action("message.fold", ("enter", "space"), "fold", Place.MESSAGE, "Fold",
           "Shows or hides the thought, or files and pastes.", priority=False),
    Action("message.skip_up", ("K",), "move_message(-1)", Place.MESSAGE,
           "Message before", "Goes to the message before.", priority=False),
    Action("message.skip_down", ("J",), "move_message(1)", Place.MESSAGE,
           "Next message", "Goes to the next message.", priority=False),
    Action("select.copy", ("y", "c", "enter"), "copy_selected", Place.SELECT, "Copy",
           "Copies what is selected, or the line.", "copy", Show.IDLE),
    Action("select.begin", ("v", "space"), "hold", Place.SELECT, "Begin",
           "Begins to select here; Shift and an arrow do, too.", "begin", Show.IDLE),
    Action("select.leave", ("escape", "q"), "leave_selecting", Place.SELECT, "Back",
           "Lets go what is selected, or goes back to the message.", "back",
           Show.IDLE),
    Action("select.up", ("up", "k", "shift+up"), "caret('rows', -1)", Place.SELECT, "Up",
           "Goes a row up.", "up", Show.IDLE),
    Action("select.down", ("down", "j", "shift+down"), "caret('rows', 1)", Place.SELECT, "Down",
           "Goes a row down.", "down", Show.IDLE),
    Action("select.left", ("left", "h", "shift+left"), "caret('characters', -1)", Place.SELECT,
           "Left", "Goes a character back.", "left", Show.IDLE),
    Action("select.right", ("right", "l", "shift+right"), "caret('characters', 1)", Place.SELECT,
           "Right", "Goes a character on.", "right", Show.IDLE),
    Action("select.word_back", ("b", "ctrl+left"), "caret('words', -1)", Place.SELECT, "Word back",
           "Goes to the word before."),
    Action("select.word", ("w", "ctrl+right"), "caret('words', 1)", Place.SELECT, "Word on",
           "Goes to the next word."),
    Action("select.line_start", ("home", "0", "shift+home"), "caret('line_end', -1)", Place.SELECT,
           "Line's start", "Goes to the start of the line."),
    Action("select.line_end", ("end", "dollar_sign", "shift+end"), "caret('line_end', 1)",
           Place.SELECT, "Line's end", "Goes to its end."),
    Action("select.first", ("g",), "caret('end', -1)", Place.SELECT, "Start",
           "Goes to the start of the message."),
    Action("select.last", ("G",), "caret('end', 1)", Place.SELECT, "End", "Goes to its end."),
    # Ctrl+Y, the text area's own, copies the last answer in this program.
    Action("prompt.take", ("tab",), "take", Place.PROMPT, "Complete",
           "Takes the file or command that is offered.", fixed=True),
    Action("prompt.undo", ("ctrl+z",), "undo", Place.PROMPT, "Undo",
           "Takes back the last change of what is written."),
    Action("prompt.redo", ("ctrl+shift+z", "alt+z"), "redo", Place.PROMPT, "Redo",
           "Does again what was taken back."),
    Action("history.take", ("enter",), "take", Place.HISTORY, "Take it",
           "Puts the question into the composer, in place of what is written.", "take", Show.IDLE),
    Action("history.older", ("down",), "move(1)", Place.HISTORY, "Older",
           "Goes to the next older one.", "older", Show.IDLE, opened_by="prompt.search"),
    Action("history.newer", ("up", "ctrl+s"), "move(-1)", Place.HISTORY, "Newer",
           "Goes to the next newer one.", "newer", Show.IDLE),
    Action("history.leave", ("escape", "ctrl+c", "ctrl+g"), "leave", Place.HISTORY, "Back",
           "Leaves the composer as it was.", "back", Show.IDLE),
    Action("history.scope", ("tab",), "scope", Place.HISTORY, "All or here",
           "Searches this conversation alone, or all.", "here or all", Show.IDLE),
    Action("list.open", ("enter",), "open", Place.LIST, "Open",
           "Opens the chosen conversation.", "open", Show.IDLE),
    Action("list.leave", ("escape",), "leave", Place.LIST, "Back",
           "Goes back to the chat.", "back", Show.IDLE, opened_by="conversation.list"),
    Action("list.rename", ("ctrl+e",), "rename", Place.LIST, "Rename",
           "Gives the conversation another title.", "rename", Show.IDLE),
    Action("list.delete", ("ctrl+d",), "delete", Place.LIST, "Delete",
           "Deletes the conversation when pressed twice.", "delete", Show.IDLE),
    Action("list.down", ("down",), "move(1)", Place.LIST, "Next", "Chooses the next one."),
    Action("list.up", ("up",), "move(-1)", Place.LIST, "Previous", "Chooses the one before."),
    Action("list.page_down", ("pagedown",), "move(10)", Place.LIST, "Ten on", "Goes ten on."),
    Action("list.page_up", ("pageup",), "move(-10)", Place.LIST, "Ten back", "Goes ten back."),
    Action("line.enter", ("enter",), "submit", Place.LINE, "Take it",
           "Takes what is written.", fixed=True),
    Action("line.leave", ("escape",), "dismiss", Place.LINE, "Cancel",
           "Leaves everything as it was.", priority=False),
    Action("branches.open", ("enter",), "open", Place.BRANCHES, "Show",
           "Shows the conversation through this message.", "show", Show.IDLE),
    Action("branches.leave", ("escape", "q"), "dismiss", Place.BRANCHES, "Back",
           "Goes back to the chat.", "back", Show.IDLE, opened_by="conversation.branches"),
    Action("compare.run", ("enter",), "run", Place.COMPARE, "Ask",
           "Asks for both answers, one after the other.", "ask both", Show.IDLE),
    Action("compare.switch", ("tab", "shift+tab"), "switch", Place.COMPARE, "Other setting",
           "Goes to the other setting.", "other", Show.IDLE),
    Action("compare.leave", ("escape",), "leave", Place.COMPARE, "Back",
           "Stops what is asked for, or goes back to the chat.", "back", Show.IDLE,
           opened_by="answer.compare"),
    Action("compare.left", ("alt+left", "f7"), "keep(0)", Place.COMPARE, "Keep the left",
           "Keeps the left or upper answer, as a version in the conversation.", "keep left",
           Show.IDLE),
    Action("compare.right", ("alt+right", "f8"), "keep(1)", Place.COMPARE, "Keep the right",
           "Keeps the right or lower one.", "keep right", Show.IDLE),
    Action("compare.interrupt", ("ctrl+c",), "interrupt", Place.COMPARE, "Interrupt",
           "Copies a selection; else it stops, or goes back."),
    Action("compare.up", ("pageup",), "page(-1)", Place.COMPARE, "Scroll up", "Scrolls both up."),
    Action("compare.down", ("pagedown",), "page(1)", Place.COMPARE, "Scroll down",
           "Scrolls both down."),
    Action("report.close", ("escape", "q"), "dismiss", Place.REPORT, "Back",
           "Goes back to the chat.", "back", Show.IDLE, opened_by="model.report"),
    Action("report.scroll", ("up", "down", "pageup", "pagedown"), "scroll", Place.REPORT,
           "Scroll", "Scrolls.", "scroll", Show.IDLE, fixed=True),
    Action("details.close", ("escape", "q"), "dismiss", Place.DETAILS, "Back",
           "Goes back to the chat.", "back", Show.IDLE, opened_by="model.details"),
    Action("details.scroll", ("up", "down", "pageup", "pagedown"), "scroll", Place.DETAILS,
           "Scroll", "Scrolls.", "scroll", Show.IDLE, fixed=True),
    Action("explorer.enter", ("enter",), "enter", Place.EXPLORER, "Load",
           "Loads what is shown, or takes over the plan of that row.", "load", Show.IDLE),
    Action("explorer.less", ("left",), "turn(-1)", Place.EXPLORER, "Less",
           "Takes the next smaller value.", "less", Show.IDLE),
    Action("explorer.more", ("right",), "turn(1)", Place.EXPLORER, "More",
           "Takes the next larger value.", "more", Show.IDLE),
    Action("explorer.leave", ("escape", "q", "ctrl+c"), "leave", Place.EXPLORER, "Back",
           "Goes back without a change.", "back", Show.IDLE, opened_by="model.explore"),
    Action("explorer.reset", ("r",), "reset", Place.EXPLORER, "Reset",
           "Shows what kvchat would choose by itself.", "reset",
           Show.IDLE),
    Action("explorer.up", ("up",), "move(-1)", Place.EXPLORER, "Row above",
           "Goes to the row above.", "above", Show.IDLE),
    Action("explorer.down", ("down",), "move(1)", Place.EXPLORER, "Row below",
           "Goes to the row below.", "below", Show.IDLE),
    Action("explorer.much_less", ("pageup", "shift+left", "ctrl+left"), "turn(-5)", Place.EXPLORER,
           "Much less", "Goes five values down."),
    Action("explorer.much_more", ("pagedown", "shift+right", "ctrl+right"), "turn(5)",
           Place.EXPLORER, "Much more", "Goes five values up."),
    Action("explorer.take", tuple("123456789"), "take", Place.EXPLORER, "Take over",
           "Takes over one of the other plans.", fixed=True),
    Action("context.grow", ("g",), "choose('grow')", Place.CONTEXT, "Larger",
           "Loads the model with a larger context; the conversation goes on.", "larger", Show.IDLE),
    Action("context.drop", ("d",), "choose('drop')", Place.CONTEXT, "Let go",
           "Takes the oldest turns out of the model's view; they are kept.", "let go", Show.IDLE),
    Action("context.summarise", ("s",), "choose('summarise')", Place.CONTEXT, "Summarise",
           "Lets the model write a summary that stands in for them.", "summarise", Show.IDLE),
    Action("context.bring_back", ("u",), "choose('bring_back')", Place.CONTEXT, "Bring back",
           "Brings back what was let go last.", "undo", Show.IDLE),
    Action("context.leave", ("escape", "q"), "dismiss", Place.CONTEXT, "Later",
           "Leaves everything as it is.", "later", Show.IDLE, opened_by="model.context"),
    Action("keys.close", ("escape", "q"), "dismiss", Place.HELP, "Back",
           "Goes back.", "back", Show.IDLE),
    Action("keys.scroll", ("up", "down", "pageup", "pagedown"), "scroll", Place.HELP,
           "Scroll", "Scrolls.", "scroll", Show.IDLE, fixed=True),
    Action("app.quit", ("ctrl+q",), "quit", Place.APP, "Quit",
           "Stops, saves and ends kvchat.", "quit", Show.PALETTE, slash="quit"),
)  # fmt: skip

BY_ID: Mapping[str, Action] = {row.id: row for row in ACTIONS}

_LABELS = {
    "escape": "Esc", "pageup": "PgUp", "pagedown": "PgDn", "insert": "Ins", "delete": "Del",
    "up": "↑", "down": "↓", "left": "←", "right": "→", "question_mark": "?",
    "dollar_sign": "$",
}  # fmt: skip


def label(key: str) -> str:
    """A key as people write it: Ctrl+N, F2, Esc, ↑, q."""
    if len(key) == 1:
        return key
    return "+".join(_LABELS.get(part, part.capitalize()) for part in key.split("+"))


@dataclass(frozen=True, slots=True)
class Keymap:
    """The rows with the user's own keys. `changed`: the keys of a row, by its id."""

    changed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def keys(self, action_id: str) -> tuple[str, ...]:
        """The keys of a row, the one to tell first."""
        row = BY_ID[action_id]
        keys = self.changed.get(action_id, row.keys)
        return (*keys, *self.keys(row.opened_by)) if row.opened_by else keys

    def label(self, action_id: str) -> str:
        """The key of a row as people write it."""
        return label(self.keys(action_id)[0])

    def labels(self, row: Action, between: str = ", ") -> str:
        """All keys of a row as people write them, and its command."""
        slash = (f"/{row.slash}{row.takes and f' [{row.takes}]'}",) if row.slash else ()
        return between.join((*map(label, self.keys(row.id)), *slash))

    def shown(self, where: Show, *places: Place) -> Iterator[Action]:
        """The rows that are shown there, of these places."""
        return (row for row in ACTIONS if row.show & where and row.place in places)

    def hints(self, where: Show, *places: Place) -> tuple[tuple[str, str], ...]:
        """Keys and what they do in a word or two, the most important first."""
        return tuple(
            (self.labels(row, " ") if row.fixed else self.label(row.id), row.hint)
            for row in self.shown(where, *places)
        )

    def welcome(self) -> str:
        """The keys that one begins with, as a sentence."""
        parts = (
            f"{self.label(row.id)} {row.does[0].lower()}{row.does[1:-1]}"
            for row in self.shown(Show.WELCOME, *Place)
        )
        return ", ".join(parts) + "."

    def actions(self, place: Place) -> dict[str, str]:
        """The action of each key that is heard in a place."""
        return {
            key: row.action for row in ACTIONS if row.place is place for key in self.keys(row.id)
        }

    def for_textual(self) -> dict[str, str]:
        """The rows whose keys are not the usual ones, for `App.set_keymap`."""
        usual = Keymap()
        return {
            row.id: ",".join(self.keys(row.id))
            for row in ACTIONS
            if self.keys(row.id) != usual.keys(row.id)
        }


def markdown(keymap: Keymap | None = None) -> str:
    """The table as Markdown, by place, for README."""
    keymap = keymap or Keymap()
    lines = ["| where | key | what it does | id |", "|---|---|---|---|"]
    for place in Place:
        lines += [
            f"| {place.value} | {keymap.labels(row)} | {row.does} | `{row.id}` |"
            for row in ACTIONS
            if row.place is place
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
