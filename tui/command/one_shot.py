"""`kvchat MODEL -p TEXT`: one answer on stdout, for pipes and scripts."""

from __future__ import annotations

from collections.abc import Iterable

from tui.command.following import followed
from tui.command.output import Progress, write, write_aside
from tui.command.signals import end_by_signals
from tuner.engine.protocol import (
    AnswerEvent,
    Done,
    Message,
    Notice,
    Text,
    WasThought,
)
from tuner.errors import EngineCancelled, ExitCode
from tuner.launch import Launcher
from tuner.wishes import LaunchRequest

UNMARKED = "what came so far was the model's thought, of which only the end is marked"
_NO_ANSWER = "the model thought and did not answer"
_NOTHING = "the model said nothing"
_HIDDEN = "; --show-thinking shows the thought"
_WHY = {
    "max_tokens": " within --max-tokens",
    "context_full": " within the context",
}


def answer(
    request: LaunchRequest,
    prompt: str,
    system: str | None,
    *,
    show_thinking: bool = False,
) -> int:
    """Streams the answer; progress and warnings go to stderr, progress only on a terminal. So does
    the model's thought, if it is to be shown.

    Raises KvchatError as a launch does.
    """
    launcher = Launcher(request)

    end_by_signals(launcher.kill)
    status = Progress()
    try:
        *_, ready = followed(launcher.start(), status)
        running = ready.running
        for warning in running.warnings:
            status.say(warning)
        told = set(running.warnings)
        status.show("")
        messages = [Message("system", system)] if system else []
        messages.append(Message("user", prompt))
        answered = running.generate(messages, running.sampling, think=running.think)
        _print(answered, status, show_thinking)
        for warning in running.warnings:  # of what the answer taught
            if warning not in told:
                status.say(warning)
    except EngineCancelled:
        return ExitCode.INTERRUPTED
    finally:
        status.show("")
        launcher.client.close()
    return ExitCode.OK


def _print(events: Iterable[AnswerEvent], status: Progress, show_thinking: bool) -> None:
    thought, answered, said = "", False, False  # said: more than space
    for event in events:
        match event:
            case Text(thought=True):
                thought = event.text
                if show_thinking:
                    write_aside(event.text)
            case Text():
                if show_thinking and thought and not answered:
                    write_aside("\n" if thought.endswith("\n") else "\n\n")
                answered = True
                said = said or not event.text.isspace()
                write(event.text)
            case WasThought():
                write("\n\n")
                status.say(UNMARKED)
                thought, answered, said = "\n", False, False
            case Notice():
                status.say(event.text)
            case Done() if not said:
                if show_thinking and thought:
                    write_aside("\n")
                hidden = _HIDDEN if thought and not show_thinking else ""
                status.say(
                    f"{_NO_ANSWER if thought else _NOTHING}{_WHY.get(event.reason, '')}{hidden}"
                )
    write("\n")
