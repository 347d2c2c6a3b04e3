"""A file's chat template, run in a process of its own with a budget of time and memory.

A template is a foreign program: Jinja's sandbox keeps it from the system, but not from counting to
`9**9**9` or doubling a string, and such a step of Python's cannot be interrupted. So a small child
(`template_child`) renders it, under the system's limits, and is killed when it takes too long; the
model's process waits beside it and loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tuner.engine.lifeline import child_command
from tuner.model.chat_templates import MAX_TEMPLATE
from tuner.units import MIB

# What no real template comes near: a hundred messages take a few milliseconds.
COMPILE_SECONDS = 10.0
RENDER_SECONDS = 5.0
MEMORY = 512 * MIB  # address space of the child, of which Python and Jinja take 60 MiB
ROOM = 1 << 20  # characters that a prompt may have beside what was said,
SHARE = 4  # and times what was said
_START_SECONDS = 30.0
_WAIT_SECONDS = 0.05  # between two looks at `stopped`


class TemplateError(Exception):
    """The template rejects these messages; the message is its own word."""


class UnusableError(Exception):
    """The template is of no use, whatever it is given: it cannot be read, took more than it may
    have, or its process died of it."""


class _DiedError(Exception):
    """The child is gone."""


class TemplateStoppedError(Exception):
    """`stopped` became true."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a template is called with; all of it as JSON has it."""

    messages: tuple[Mapping[str, Any], ...]
    variables: Mapping[str, Any]
    now: float  # seconds since the epoch: what strftime_now tells
    lenient: bool = False  # what is not given counts as an empty text


class TemplateProcess:
    """One template. The child is started at once, compiles when first asked, and is started again
    after a stop. Belongs to one thread, which must live as long as it."""

    def __init__(self, template: str, stopped: Callable[[], object]):
        """`stopped`: looked at all the time. Raises UnusableError for a template that is too
        long."""
        if len(template) > MAX_TEMPLATE:
            raise UnusableError(
                f"it has {len(template):,} characters, {MAX_TEMPLATE:,} are allowed"
            )
        self._program = {"template": template}
        self._stopped = stopped
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, call: Call) -> str:
        """The prompt. Raises TemplateError, UnusableError, TemplateStoppedError."""
        try:
            return self._rendered(call)
        except _DiedError:  # perhaps of something else: one death teaches nothing
            pass
        try:
            return self._rendered(call)
        except _DiedError:
            raise UnusableError("its process died of it") from None

    def close(self) -> None:
        """Kills the child."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError, ValueError):
                    pipe.close()  # type: ignore[union-attr]

    def _rendered(self, call: Call) -> str:
        if self._process is None:
            self._start()
        return self._ask(asdict(call), RENDER_SECONDS)

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                child_command("tuner.engine.template_child"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # its last words are none of the engine's
            )
        except OSError as error:
            raise UnusableError(f"no process for it could be started: {error}") from error
        self._ask({}, _START_SECONDS)
        try:
            self._ask(self._program, COMPILE_SECONDS)
        except TemplateError as error:
            self.close()
            raise UnusableError(str(error)) from None

    def _ask(self, question: dict[str, Any], seconds: float) -> str:
        """Sends a line and waits for one: its text."""
        process = self._process
        assert process is not None
        answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        # A thread: a child that hangs need not read either.
        arguments = (process, json.dumps(question).encode() + b"\n", answers)
        threading.Thread(target=_talk, args=arguments, daemon=True).start()
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(queue.Empty):
                line = answers.get(timeout=_WAIT_SECONDS)
                break
            if self._stopped():
                self.close()
                raise TemplateStoppedError
            if time.monotonic() > end:
                self.close()
                raise UnusableError(f"it takes longer than {seconds:g} seconds")
        try:
            answer = json.loads(line)
        except ValueError:
            self.close()
            raise _DiedError from None
        if "error" in answer:
            raise TemplateError(answer["error"])
        text: str = answer["text"]
        return text


def _talk(process: subprocess.Popen[bytes], line: bytes, answers: queue.SimpleQueue[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
        answers.put(process.stdout.readline())
    except (OSError, ValueError):
        answers.put(b"")
