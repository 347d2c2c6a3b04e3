"""The open conversation: its messages, what the model sees of them, what is saved."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from tui.answering.view import View, prompt_of, view_of
from tui.composing.parts import asked
from tui.ports import RunningModel
from tui.storage import Conversation, Conversations, StoredMessage, Tree
from tuner.engine.protocol import Done, Message, Sampling
from tuner.errors import KvchatError, UsageError
from tuner.safe_text import utf8

TITLE_CHARS = 60
GRAMMAR_CHARS = 1000  # that are kept with each answer, to know it by


CUT = ("stopped", "max_tokens", "context_full", "interrupted", "error")  # states of an answer


def title_of(text: str) -> str:
    """A title from the first message: its words on one line, cut to 60 characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= TITLE_CHARS else flat[: TITLE_CHARS - 1].rstrip() + "…"


class Chat:
    """Lives on the screen's thread. Nothing is saved before the first message."""

    def __init__(
        self,
        system_prompt: str | None = None,
        conversation: Conversation | None = None,
        messages: Sequence[StoredMessage] = (),
    ):
        """`messages`: all of the conversation's, in the order in which they were written."""
        now = time.time()
        self.conversation = conversation or Conversation(secrets.token_hex(4), "", now, now)
        if system_prompt is not None:
            self.conversation = replace(self.conversation, system_prompt=utf8(system_prompt))
        self.tree = Tree(messages, self.conversation.head)

    @property
    def path(self) -> list[StoredMessage]:
        """What is shown: from the first message to the last."""
        return self.tree.path

    @property
    def last_answer(self) -> StoredMessage | None:
        return next((m for m in reversed(self.path) if m.role == "assistant" and m.content), None)

    @property
    def forked(self) -> StoredMessage | None:
        """The last message that is shown of those that have other versions."""
        versions = self.tree.versions
        return next((m for m in reversed(self.path) if len(versions(m)) > 1), None)

    @property
    def may_go_on(self) -> bool:
        """The last message is an answer that was stopped or cut, with words to go on from."""
        last = self.path[-1] if self.path else None
        return last is not None and last.state in CUT and bool(last.content.strip())

    @property
    def waits_for_answer(self) -> bool:
        """The last message is the user's: the model has yet to answer it."""
        return bool(self.path) and self.path[-1].role == "user"

    def add_user(self, text: str, parts: str | None = None) -> StoredMessage:
        """A question; `parts`: what of it was pasted or is a file (composing/parts.py)."""
        text = utf8(text)
        if not self.conversation.title:
            written = asked(text, parts).whole
            self.conversation = replace(self.conversation, title=title_of(written))
        return self.change(replace(self._add("user", text), parts=parts))

    def begin_answer(self, running: RunningModel, sampling: Sampling) -> StoredMessage:
        """An empty answer of this model; saved as interrupted until it is finished."""
        sampling = replace(sampling, grammar=sampling.grammar[:GRAMMAR_CHARS])
        settings = {"settings": asdict(running.settings), "sampling": asdict(sampling)}
        answer = self._add("assistant", "")
        return self.change(
            replace(
                answer,
                state="interrupted",
                model_name=running.model.name,
                model_fingerprint=running.model.fingerprint,
                settings=json.dumps(settings),
            )
        )

    def reopen_answer(self) -> StoredMessage:
        """The last answer, to be gone on with; saved as interrupted until it is finished."""
        return self.change(replace(self.path[-1], state="interrupted"))

    def change(self, message: StoredMessage) -> StoredMessage:
        """Puts a newer state of a message in its place."""
        return self.tree.change(message)

    def edit(self, message: StoredMessage, text: str, parts: str | None = None) -> StoredMessage:
        """Another wording of a question, beside the old one; what followed that stays with it."""
        self.tree.end_at(message.parent_id if message.parent_id in self.tree else None)
        return self.add_user(text, parts)

    def ask_again(self, answer: StoredMessage) -> None:
        """Lets the path end at what this answers: the next answer is another version of it."""
        self.tree.end_at(answer.parent_id if answer.parent_id in self.tree else None)

    def keep(self, answer: StoredMessage) -> StoredMessage:
        """Takes in an answer that was written outside, as another version of what follows its
        question."""
        self.ask_again(answer)
        return self.tree.add(answer)

    def record(self) -> Conversation:
        """The conversation as it is to be saved now."""
        self.conversation = replace(self.conversation, updated=time.time(), head=self.tree.head)
        return self.conversation

    @property
    def view(self) -> View:
        """What the model sees of the path."""
        return view_of(self.path)

    def prompt(self) -> tuple[Message, ...]:
        """What the model is given (`answering/view.py`)."""
        return prompt_of(self.conversation.system_prompt, self.view)

    def let_go(self, last: StoredMessage, stands_in: str = "") -> StoredMessage:
        """Takes this message and all before it out of the model's view."""
        return self.change(replace(last, let_go=utf8(stands_in)))

    def bring_back(self) -> StoredMessage | None:
        """Brings back what was let go last, up to what was let go before that; None: all is in
        view."""
        gone = self.view.gone
        return self.change(replace(gone[-1], let_go=None)) if gone else None

    def _add(self, role: str, text: str) -> StoredMessage:
        message = StoredMessage(secrets.token_hex(8), self.tree.head, role, text, time.time())
        return self.tree.add(message)


def opened(
    store: Conversations, system_prompt: str | None = None, resume: str | None = None
) -> tuple[Chat, str]:
    """The conversation to begin with, and why it is not the one that was asked for. Blocks."""
    if resume is None:
        return Chat(system_prompt), ""
    try:
        conversation = store.get(resume)
        if conversation is None:
            raise UsageError(f"There is no saved conversation {resume!r}.")
        messages = store.messages(conversation.id)
    except KvchatError as error:
        return Chat(system_prompt), f"{error} A new one was begun."
    return Chat(system_prompt, conversation, messages), ""


def measured(answer: StoredMessage, done: Done, before: StoredMessage) -> StoredMessage:
    """The answer with what the engine counted. `before`: what was there of it."""
    speed = done.n_decoded / done.decode_seconds if done.n_decoded and done.decode_seconds else None
    whole = before.n_prompt is None  # not the rest of one
    thought = done.thought_seconds + (before.thought_seconds or 0.0)
    return replace(
        answer,
        state="complete" if done.reason == "end" else done.reason,
        n_prompt=done.n_prompt if whole else before.n_prompt,
        n_reused=done.n_reused if whole else before.n_reused,
        prompt_seconds=done.prompt_seconds if whole else before.prompt_seconds,
        n_tokens=done.n_decoded + (before.n_tokens or 0),
        n_ctx_used=max(
            done.n_ctx_used, done.n_prompt
        ),  # also if it was stopped before all was read
        tokens_per_second=speed,
        thought_seconds=thought if answer.reasoning else None,
    )
