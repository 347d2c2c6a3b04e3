"""The program that renders chat templates, the only one that imports Jinja. `template_process`
starts it, asks it and kills it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import IO, Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tuner.engine.lifeline import end_with_parent
from tuner.engine.template_process import COMPILE_SECONDS, MEMORY, ROOM, SHARE
from tuner.units import MIB


class _GenerationTag(jinja2.ext.Extension):
    """Hugging Face's {% generation %}: marks text for training and means nothing here."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main() -> None:
    """Answers {} and {template, strings} with an empty text, {messages} with the prompt."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else that is printed is an answer
    serve(sys.stdin.buffer, answers)
    os._exit(0)


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """One answer to each question."""
    _limit_memory()
    template: Any = None
    strings: dict[str, str] = {}
    for line in questions:
        _limit_time()
        try:
            question = json.loads(line)
            text = ""
            if "template" in question:
                template, strings = _compiled(question["template"]), question["strings"]
            elif "messages" in question:
                messages = question["messages"]
                text = _rendered(template, messages, strings)
                most = ROOM + SHARE * sum(len(m["content"]) for m in messages)
                if len(text) > most:
                    raise ValueError(f"its prompt has {len(text):,} characters")
            answer = {"text": text}
        except MemoryError:
            answer = {"error": f"it takes more than {MEMORY // MIB} MiB of memory"}
        except Exception as error:  # a template is a foreign program: anything may come out
            answer = {"error": _in_a_line(error)}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _limit_memory() -> None:
    try:
        import resource  # noqa: PLC0415 - POSIX
    except ImportError:
        return
    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))


def _limit_time() -> None:
    """The system's own clock, for where nobody is left who would kill this process."""
    try:
        import resource  # noqa: PLC0415 - POSIX
    except ImportError:
        return
    most = int(time.process_time() + COMPILE_SECONDS) + 1
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (most, hard))


def _in_a_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:120] if text.strip() else type(error).__name__


def _compiled(source: str) -> jinja2.Template:
    """The environment of Transformers' apply_chat_template, which templates are written for."""
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.BaseLoader(),
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    return environment.from_string(source)


def _rendered(
    template: jinja2.Template, messages: Sequence[Mapping[str, str]], strings: Mapping[str, str]
) -> str:
    """The prompt of messages with "role" and "content". Raises whatever a template raises."""
    return template.render(
        messages=messages,
        add_generation_prompt=True,
        tools=None,
        functions=None,
        raise_exception=_raise_exception,
        strftime_now=_strftime_now,
        **strings,
    )


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> None:
    raise ValueError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
