"""A conversation as the text that a model was trained on: the file's own Jinja template, or
ChatML where it has none. Never raises for what a template does: what it rejects is said in another
way, and one that takes too much is not asked again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuner.engine.protocol import Message
from tuner.engine.template_process import BudgetError, TemplateError, TemplateProcess

CHATML_STOPS = ("<|im_end|>", "<|im_start|>")

NO_TEMPLATE = (
    "the file has no chat template, so ChatML is used: a model that was not trained for chat "
    "may ramble"
)
BAD_TEMPLATE = "the file's chat template does not work ({reason}), so ChatML is used"

_MARK = "a system message to look for"


@dataclass(frozen=True, slots=True)
class Rendered:
    """The prompt, and the texts that end an answer beside the model's own end tokens."""

    text: str
    stops: tuple[str, ...] = ()


class ChatTemplate:
    """One model's template. `source` is "file" or "chatml"; `warnings` say why not the file's, and
    may come to say it at any rendering."""

    def __init__(
        self,
        template: str | None,
        bos: str,
        eos: str,
        stopped: Callable[[], object] = lambda: False,
    ):
        """Tries it out. `stopped`: looked at while a template runs; raises TemplateStoppedError,
        then, as `render` does."""
        self._own: TemplateProcess | None = None
        self._takes_system = True
        self.warnings: tuple[str, ...] = ()
        if not template or not template.strip():
            self.warnings = (NO_TEMPLATE,)
            return
        try:
            own = TemplateProcess(template, {"bos_token": bos, "eos_token": eos}, stopped)
            self._own = own
            if "hello" not in own.render((Message("user", "hello"),)):
                raise TemplateError("it leaves out what the user says")
            self._takes_system = self._shows_system(own)
        except (TemplateError, BudgetError) as error:
            self._give_up(error)

    @property
    def source(self) -> str:
        return "file" if self._own is not None else "chatml"

    def close(self) -> None:
        if self._own is not None:
            self._own.close()

    def render(self, messages: Sequence[Message], *, continue_last: bool = False) -> Rendered:
        """The prompt of a conversation, ready for the assistant's next words.

        With `continue_last` the last message's text follows the opening of an answer and is
        left open, exactly as it stood when the model was writing it."""
        tail = ""
        if continue_last and messages and messages[-1].role == "assistant":
            tail = messages[-1].content
            messages = messages[:-1]
        text = self._said_by_own(messages)
        if text is not None:
            return Rendered(text + tail)
        return Rendered(chatml(messages) + tail, CHATML_STOPS)

    def _said_by_own(self, messages: Sequence[Message]) -> str | None:
        """None where the file's template has no way to say it, or takes too much."""
        if self._own is None:
            return None
        for attempt in self._ways_to_say(messages):
            try:
                return self._own.render(attempt)
            except TemplateError:
                continue
            except BudgetError as error:
                self._give_up(error)
                return None
        return None

    def _give_up(self, error: Exception) -> None:
        """ChatML from now on."""
        self.close()
        self._own = None
        self.warnings = (BAD_TEMPLATE.format(reason=error),)

    def _ways_to_say(self, messages: Sequence[Message]) -> tuple[Sequence[Message], ...]:
        """As it is, then without a system role, then with turns that strictly alternate."""
        folded = fold_system(messages)
        ways = (messages, folded, merge_turns(folded))
        return ways if self._takes_system else ways[1:]

    def _shows_system(self, template: TemplateProcess) -> bool:
        """Some templates reject a system message, others drop it without a word."""
        try:
            return _MARK in template.render((Message("system", _MARK), Message("user", "hello")))
        except TemplateError:
            return False


def chatml(messages: Sequence[Message]) -> str:
    """The form that stands in."""
    turns = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)
    return f"{turns}<|im_start|>assistant\n"


def fold_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """System messages put in front of the first user turn."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    rest = [m for m in messages if m.role != "system"]
    if not system:
        return tuple(rest)
    for i, message in enumerate(rest):
        if message.role == "user":
            rest[i] = Message("user", f"{system}\n\n{message.content}")
            return tuple(rest)
    return (Message("user", system), *rest)


def merge_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Neighbours of one role as one turn, and the first turn the user's: what templates that
    insist on alternating roles accept."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            merged[-1] = Message(message.role, f"{merged[-1].content}\n\n{message.content}")
        else:
            merged.append(message)
    if merged and merged[0].role == "assistant":
        merged.insert(0, Message("user", ""))
    return tuple(merged)
