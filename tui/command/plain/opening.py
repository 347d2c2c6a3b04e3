"""Opens the chat in lines and turns how it ended into an exit status."""

from __future__ import annotations

import threading

from tui.answering.conversation import opened
from tui.command.output import complain, tell
from tui.command.plain.keyboard import Keyboard, Left
from tui.command.plain.session import Session
from tui.parachute import (
    CLOSE_SECONDS,
    END_SECONDS,
    KEEP_SECONDS,
    SAVE_SECONDS,
    SETTLE_SECONDS,
    Parachute,
)
from tui.storage import Conversations
from tui.when_full import Way
from tuner.errors import ExitCode
from tuner.launch import Launcher
from tuner.wishes import LaunchRequest


def chat_in_lines(
    request: LaunchRequest,
    system: str | None,
    resume: str | None,
    *,
    show_thinking: bool = False,
    when_full: Way | None = None,
    keep_states: int | None = None,
    idle_seconds: float | None = None,
) -> int:
    """Talks until the user leaves. Whatever hangs then, the program ends within some seconds.
    `when_full`: how room is made in a full context without asking."""
    launcher = Launcher(request)
    parachute = Parachute(launcher.kill, screen_taken=False)
    keyboard = Keyboard(parachute)
    store = Conversations.open(None)
    store.states.most_bytes = keep_states
    chat, problem = opened(store, system, resume)
    if problem:
        complain(problem)
    session = Session(
        launcher,
        store,
        keyboard,
        chat,
        show_thinking=show_thinking,
        when_full=when_full,
        idle_seconds=idle_seconds,
    )
    try:
        status = session.run()
    except Left:
        status = ExitCode.INTERRUPTED
    parachute.arm(SETTLE_SECONDS + END_SECONDS, status)
    session.stop(SETTLE_SECONDS)
    parachute.arm(KEEP_SECONDS + END_SECONDS, status)
    session.keep_read(KEEP_SECONDS)
    parachute.arm(SAVE_SECONDS + END_SECONDS, status)
    if problem := session.close(SAVE_SECONDS):
        tell(f"not all of this chat was saved. {problem}")
    parachute.arm(CLOSE_SECONDS + END_SECONDS, status)
    if session.model.running is not None:
        closing = threading.Thread(target=session.model.running.close, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
    launcher.kill()
    parachute.fold()
    return status
