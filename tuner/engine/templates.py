"""A conversation as the text that a model was trained on: the file's own Jinja template, or
ChatML where it has none. Never raises: what a template rejects is said in another way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tuner.engine.protocol import Message

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_STOPS = ("<|im_end|>", "<|im_start|>")

NO_TEMPLATE = (
    "the file has no chat template, so ChatML is used: a model that was not trained for chat "
    "may ramble"
)
BAD_TEMPLATE = "the file's chat template does not work ({reason}), so ChatML is used"

_MARK = "a system message to look for"


class _GenerationTag(jinja2.ext.Extension):
    """Hugging Face's {% generation %}: marks text for training and means nothing here."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The prompt, and the texts that end an answer beside the model's own end tokens."""

    text: str
    stops: tuple[str, ...] = ()


class ChatTemplate:
    """One model's template. `source` is "file" or "chatml"; `warnings` say why not the file's."""

    def __init__(self, template: str | None, bos: str, eos: str):
        self._strings = {"bos_token": bos, "eos_token": eos}
        self._chatml = _compile(CHATML)
        self._own: jinja2.Template | None = None
        self._takes_system = True
        self.warnings: tuple[str, ...] = ()
        if not template or not template.strip():
            self.warnings = (NO_TEMPLATE,)
            return
        try:
            own = _compile(template)
            if "hello" not in self._apply(own, (Message("user", "hello"),)):
                raise ValueError("it leaves out what the user says")
        except Exception as error:
            self.warnings = (BAD_TEMPLATE.format(reason=_in_a_line(error)),)
            return
        self._own = own
        self._takes_system = self._shows_system(own)

    @property
    def source(self) -> str:
        return "file" if self._own is not None else "chatml"

    def render(self, messages: Sequence[Message], *, continue_last: bool = False) -> Rendered:
        """The prompt of a conversation, ready for the assistant's next words.

        With `continue_last` the last message's text follows the opening of an answer and is
        left open, exactly as it stood when the model was writing it."""
        tail = ""
        if continue_last and messages and messages[-1].role == "assistant":
            tail = messages[-1].content
            messages = messages[:-1]
        if self._own is not None:
            for attempt in self._ways_to_say(messages):
                try:
                    return Rendered(self._apply(self._own, attempt) + tail)
                except Exception:  # a template is a foreign program: anything may come out
                    continue
        return Rendered(self._apply(self._chatml, messages) + tail, CHATML_STOPS)

    def _ways_to_say(self, messages: Sequence[Message]) -> tuple[Sequence[Message], ...]:
        """As it is, then without a system role, then with turns that strictly alternate."""
        folded = fold_system(messages)
        ways = (messages, folded, merge_turns(folded))
        return ways if self._takes_system else ways[1:]

    def _shows_system(self, template: jinja2.Template) -> bool:
        """Some templates reject a system message, others drop it without a word."""
        try:
            probe = (Message("system", _MARK), Message("user", "hello"))
            return _MARK in self._apply(template, probe)
        except Exception:
            return False

    def _apply(self, template: jinja2.Template, messages: Sequence[Message]) -> str:
        return template.render(
            messages=[{"role": m.role, "content": m.content} for m in messages],
            add_generation_prompt=True,
            tools=None,
            functions=None,
            raise_exception=_raise_exception,
            strftime_now=_strftime_now,
            **self._strings,
        )


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


def _compile(source: str) -> jinja2.Template:
    """The environment of Transformers' apply_chat_template, which templates are written for."""
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.BaseLoader(),
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    return environment.from_string(source)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> None:
    raise ValueError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _in_a_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:120]
