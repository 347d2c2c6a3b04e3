"""`kvchat MODEL -p TEXT`: one answer on stdout, for pipes and scripts."""

from __future__ import annotations

import signal

from tui.command.output import Progress, write
from tuner.engine.protocol import Message, Notice, Sampling, Text
from tuner.errors import EngineCancelled, ExitCode
from tuner.launch import Launcher, Ready, Retry, Stage
from tuner.wishes import LaunchRequest


def answer(request: LaunchRequest, prompt: str, system: str | None, sampling: Sampling) -> int:
    """Streams the answer; progress and warnings go to stderr, progress only on a terminal.

    Raises KvchatError as a launch does.
    """
    launcher = Launcher(request)

    def interrupt(*_: object) -> None:
        launcher.kill()  # first: whoever waits for it must not go on waiting for it to stop
        raise KeyboardInterrupt

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), interrupt)
    status = Progress()
    try:
        running = None
        for event in launcher.start():
            match event:
                case Stage(text, fraction):
                    status.show(text if fraction is None else f"{text} {fraction:.0%}")
                case Retry(reason):
                    status.say(reason)
                case Ready():
                    running = event.running
        assert running is not None
        for warning in running.warnings:
            status.say(warning)
        told = set(running.warnings)
        status.show("")
        messages = [Message("system", system)] if system else []
        messages.append(Message("user", prompt))
        for piece in running.generate(messages, sampling, think=running.think):
            if isinstance(piece, Text):
                write(piece.text)
            elif isinstance(piece, Notice):
                status.say(piece.text)
        write("\n")
        for warning in running.warnings:  # of what the answer taught
            if warning not in told:
                status.say(warning)
    except EngineCancelled:
        return ExitCode.INTERRUPTED
    finally:
        status.show("")
        launcher.client.close()
    return ExitCode.OK
