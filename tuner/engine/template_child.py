"""The program that renders chat templates, the only one that imports Jinja. `template_process`
starts it, asks it and kills it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import IO, Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tuner.engine.child_limits import limit_memory, limit_time
from tuner.engine.lifeline import end_with_parent
from tuner.engine.template_process import COMPILE_SECONDS, MEMORY, ROOM, SHARE
from tuner.units import MIB


class _GenerationTag(jinja2.ext.Extension):
    """Hugging Face's {% generation %}: marks text for training and means nothing here."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Empty(jinja2.ChainableUndefined):
    """What a template reads and is not given, as an empty text: it can be joined to one, and has
    every field and method."""

    __slots__ = ()

    def __add__(self, other: Any) -> Any:
        return other

    __radd__ = __add__

    def __call__(self, *_: Any, **__: Any) -> _Empty:  # type: ignore[override]  # never raises
        return self


class _Environment(ImmutableSandboxedEnvironment):
    """What the sandbox refuses is refused, however lenient a rendering is otherwise."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> jinja2.Undefined:
        problem = f"access to attribute {attribute!r} is unsafe"
        return jinja2.Undefined(problem, obj=obj, name=attribute, exc=SecurityError)


def main() -> None:
    """Answers {} and {template} with an empty text, a call (`template_process.Call`) with the
    prompt."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else that is printed is an answer
    serve(sys.stdin.buffer, answers)
    os._exit(0)


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """One answer to each question."""
    limit_memory(MEMORY)
    template = Template("")
    for line in questions:
        limit_time(COMPILE_SECONDS + 1)  # the parent is sooner
        try:
            question = json.loads(line)
            text = ""
            if "template" in question:
                template = Template(question["template"])
            elif "messages" in question:
                text = template.render(**question)
                if len(text) > ROOM + SHARE * len(line):
                    raise ValueError(f"its prompt has {len(text):,} characters")
            answer = {"text": text}
        except MemoryError:
            answer = {"error": f"it takes more than {MEMORY // MIB} MiB of memory"}
        except Exception as error:  # a template is a foreign program: anything may come out
            answer = {"error": _in_a_line(error)}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _in_a_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:120] if text.strip() else type(error).__name__


class Template:
    """One template in the environment of Transformers' apply_chat_template, which templates are
    written for (utils/chat_template_utils.py, _compile_jinja_template)."""

    def __init__(self, source: str):
        """Raises what Jinja finds wrong."""
        self._source = source
        self._compiled = {jinja2.Undefined: self._compile(jinja2.Undefined)}

    def _compile(self, undefined: type[jinja2.Undefined]) -> jinja2.Template:
        environment = _Environment(
            loader=jinja2.BaseLoader(),
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=undefined,
            extensions=[_GenerationTag, jinja2.ext.loopcontrols],
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        return environment.from_string(self._source)

    def render(
        self, messages: list[Any], variables: Mapping[str, Any], lenient: bool, now: float
    ) -> str:
        """The prompt of a `template_process.Call`. Raises whatever a template raises."""
        kind: type[jinja2.Undefined] = _Empty if lenient else jinja2.Undefined
        if kind not in self._compiled:
            self._compiled[kind] = self._compile(kind)
        moment = datetime.fromtimestamp(now)
        return self._compiled[kind].render(
            messages=messages,
            add_generation_prompt=True,
            strftime_now=moment.strftime,
            **variables,
        )


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Transformers' filter: Jinja's own one escapes HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise ValueError(message)
