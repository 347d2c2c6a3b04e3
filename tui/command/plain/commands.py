"""The commands of the chat in lines: those of the chat that make sense there, by the same names,
and a few that take the place of a screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tui.answering import Chat, Growing
from tui.answering.words import BACK, saved_to, with_last_turn
from tui.command.output import columns, complain, write
from tui.command.plain import words
from tui.command.plain.entries import ABOUT
from tui.command.plain.keyboard import LEAVE, STOP
from tui.composing.commands import WAY_OUT, parted
from tui.keymap import BY_ID
from tui.when_full import Way
from tuner.engine.thinking import nearest
from tuner.safe_text import one_line

if TYPE_CHECKING:
    from tui.command.plain.session import Session

LISTED = 20  # conversations


class WrongCommandError(Exception):
    """A command that there is not, or without what it takes; `str()` says so."""


@dataclass(frozen=True, slots=True)
class Command:
    """One row. `takes`: what goes after it, in brackets where it may be left out."""

    name: str  # without the slash
    does: str  # a sentence, the command its subject
    run: Callable[[Session, str], None]
    takes: str = ""


def command(text: str) -> tuple[Command, str] | None:
    """The command that an entry is, and what goes after it; None: a text to be sent. Raises
    WrongCommandError."""
    found = parted(text)
    if found is None:
        return None
    word, rest = found
    row = BY_NAME.get(word)
    if row is None:
        what = f"there is no command {one_line(f'/{word}')[:40]}, /help lists what there is"
        raise WrongCommandError(f"{what}; {WAY_OUT}")
    if rest and not row.takes:
        raise WrongCommandError(f"nothing goes after /{row.name}; {WAY_OUT}")
    if not rest and row.takes and not row.takes.startswith("["):
        raise WrongCommandError(f"it takes something more: /{row.name} {row.takes}")
    return row, rest


class Commands:
    """How an action of the chat is asked for in lines (`advice.Called`)."""

    def label(self, action_id: str) -> str:
        """The command for it; "" where there is none."""
        slash = BY_ID[action_id].slash
        return f"/{slash}" if slash in BY_NAME else ""


# ---------------------------------------------------------------- what they do


def _help(_: Session, __: str) -> None:
    for line in help_lines():
        write(f"{line}\n")


def _new(session: Session, _: str) -> None:
    session.show(Chat(session.chat.conversation.system_prompt))
    complain("a new conversation")


def _list(session: Session, _: str) -> None:
    found = session.store.list(LISTED)
    for conversation in found:
        write(f"{words.listed(conversation)}\n")
    if not found:
        complain("no conversation is saved")


def _open(session: Session, conversation_id: str) -> None:
    conversation = session.store.get(conversation_id)
    if conversation is None:
        complain(f"there is no saved conversation {conversation_id}; /list lists them")
    else:
        session.show(Chat(None, conversation, session.store.messages(conversation.id)))


def _show(session: Session, _: str) -> None:
    if session.chat.path:
        write(words.whole(session.chat))
    else:
        complain("nothing is said yet")


def _again(session: Session, _: str) -> None:
    chat = session.chat
    if not chat.path:
        complain("nothing is asked yet")
    elif session.has_model():
        if not chat.waits_for_answer:
            chat.ask_again(chat.path[-1])
        session.ask()


def _continue(session: Session, _: str) -> None:
    if not session.chat.may_go_on:
        complain("there is no answer that was cut")
    elif session.has_model():
        session.ask(Growing.go_on)


def _versions(session: Session, number: str) -> None:
    chat = session.chat
    forked = chat.forked
    if forked is None:
        complain("no message has another version")
        return
    versions = chat.tree.versions(forked)
    if number.isdecimal() and 1 <= int(number) <= len(versions):
        chat.tree.show(versions[int(number) - 1])
        session.recorder.save(chat.record())
        session.tell_where()
    shown = {message.id for message in chat.path}
    at = next(n for n, version in enumerate(versions, 1) if version in shown)
    what = "answer" if forked.role == "assistant" else "question"
    complain(f"version {at} of {len(versions)} of the last {what} that has several")


def _edit(session: Session, text: str) -> None:
    old = next((m for m in reversed(session.chat.path) if m.role == "user"), None)
    if old is None:
        complain("nothing is asked yet")
        return
    text = text or session.reworded(words.asked_text(old))
    if text.strip():
        session.send(text, instead_of=old)
    else:
        complain("the question stays as it was")


def _think(session: Session, level: str) -> None:
    running = session.has_model()
    if running is None:
        return
    levels = running.think_levels
    if not levels:
        complain("this model's template offers no choice of thinking")
    elif level.lower() in levels:
        session.think = level.lower()
        running.remember_think(session.think)
        complain(f"thinking {session.think}, from the next answer on")
    else:
        now = nearest(session.think, levels, running.usual_think) or running.usual_think
        complain(f"thinking is {now or 'as the template has it'}; there is {', '.join(levels)}")


def _context(session: Session, _: str) -> None:
    running = session.has_model()
    if running is not None:
        used = running.count_tokens(session.chat.prompt(), session.think)
        complain(words.context(used, running.settings.n_ctx))


def _room(way: Way) -> Callable[[Session, str], None]:
    """Makes room in the context, in this way."""
    return lambda session, _: session.make_room(way)


def _fit(session: Session, _: str) -> None:
    if session.model.running is None:
        complain("the model is not loaded yet")
    else:
        report = session.model.running.report_text(columns())
        write(words.without_bars(with_last_turn(report, session.last_reading, columns())))


def _save(session: Session, name: str) -> None:
    if session.chat.path:
        path = Path(name).expanduser()
        complain(saved_to(path, words.whole(session.chat), "the conversation"))
    else:
        complain("nothing is said yet")


def _reload(session: Session, _: str) -> None:
    if session.model.ready:
        complain("the model is running")
    else:
        session.load()


def _pause(session: Session, _: str) -> None:
    session.rest()
    session.warm.wait()
    rests = session.model.rests
    complain(f"paused: {BACK}" if rests else "the model is not running; /reload loads it")


def _quit(session: Session, _: str) -> None:
    session.quits = True


def _row(action_id: str, run: Callable[[Session, str], None], **other: str) -> Command:
    """One that the chat has, too."""
    action = BY_ID[action_id]
    return Command(action.slash, other.get("does", action.does), run, other.get("takes", ""))


def _way(action_id: str, way: Way) -> Command:
    """One that is a key where the chat makes room."""
    return Command(way.value.replace("_", "-"), BY_ID[action_id].does, _room(way))


COMMANDS = (
    _row("app.keys", _help, does="Lists the commands."),
    _row("conversation.new", _new),
    Command("list", f"Lists the newest {LISTED} conversations with their ids.", _list),
    _row("conversation.list", _open, takes="ID", does="Goes on with a saved conversation."),
    Command("show", "Says the whole conversation again.", _show),
    _row("answer.regenerate", _again),
    _row("answer.continue", _continue),
    _row("prompt.edit", _edit, takes="[WORDS]",
         does="Asks the last question in other words; the old ones are kept."),
    _row("conversation.branches", _versions, takes="[N]",
         does="Says how many versions the last answer or question has, or shows another."),
    _row("answer.think", _think, takes="[LEVEL]"),
    _row("model.context", _context),
    _way("context.grow", Way.GROW),
    _way("context.drop", Way.DROP),
    _way("context.summarise", Way.SUMMARISE),
    _way("context.bring_back", Way.BRING_BACK),
    _row("model.report", _fit),
    Command("save", "Writes the conversation to a new file.", _save, "FILE"),
    _row("model.pause", _pause),
    _row("model.reload", _reload),
    _row("app.quit", _quit),
)  # fmt: skip
BY_NAME = {row.name: row for row in COMMANDS}


def help_lines() -> Iterator[str]:
    """What there is, a line each."""
    yield "What is written is sent to the model by Enter."
    yield ABOUT
    yield "A file that is named as @notes.md goes along."
    yield f"{STOP} stops an answer, and what is written of it is kept. Where nothing is written,"
    yield f"{STOP} pressed twice leaves, and so does {LEAVE}."
    for row in COMMANDS:
        yield f"{' '.join(filter(None, (f'/{row.name}', row.takes)))}: {row.does}"
