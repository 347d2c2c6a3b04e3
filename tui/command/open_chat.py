"""Opens the chat on the terminal and turns how it ended into an exit status."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tui.app import KvchatApp
from tui.command.output import prepare_screen, tell
from tui.command.signals import leave_by_signals
from tui.key_file import read_keymap
from tui.parachute import END_SECONDS, Parachute
from tui.storage import Conversations
from tui.when_full import Way
from tuner.errors import ExitCode
from tuner.launch import Launcher
from tuner.wishes import LaunchRequest

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl+C is a key there, no signal
_SWITCH_SECONDS = 0.0005
_FLUSH_SECONDS = 0.2  # for the last words, where a thread hangs


def open_chat(
    request: LaunchRequest,
    system: str | None,
    resume: str | None,
    *,
    choose: bool = False,
    width: int,
    when_full: Way | None = None,
    keep_states: int | None = None,
    idle_seconds: float | None = None,
) -> int:
    """Runs the app until the user leaves. A launch that failed is said again on stderr. `choose`:
    the fit explorer comes first. `width`: columns that text takes at most.
    `when_full`: how room is made in a full context without asking. `keep_states`: bytes that
    what the model has read of conversations may take on the disk; None: as usual. `idle_seconds`:
    after which the model's memory is let go."""
    launcher = Launcher(request)
    parachute = Parachute(launcher.kill)
    keymap, problems = read_keymap()
    prepare_screen()
    # A loop and threads of our own: asyncio.run would wait for every thread, also one that hangs.
    loop = asyncio.new_event_loop()
    threads = ThreadPoolExecutor(thread_name_prefix="kvchat")
    loop.set_default_executor(threads)
    store = Conversations.open(None)
    store.states.most_bytes = keep_states
    try:
        # Textual writes to the terminal in a thread, which should not wait for drawing to end.
        sys.setswitchinterval(_SWITCH_SECONDS)
        app = KvchatApp(
            launcher=launcher,
            store=store,
            system_prompt=system,
            resume=resume,
            keymap=keymap,
            warnings=problems,
            parachute=parachute,
            choose=choose,
            width=width,
            when_full=when_full,
            idle_seconds=idle_seconds,
        )
        leave = partial(loop.call_soon_threadsafe, app.leave_by_signal)
        leave_by_signals(leave, parachute, _SIGNALS)
        app.run(loop=loop)
    finally:
        parachute.fold()
        parachute.screen_taken = False
        launcher.kill()
    status = app.return_code or ExitCode.OK
    if app.unsaved:
        tell(f"not all of this chat was saved. {app.unsaved}")
    if app.error is not None:
        tell(str(app.error))
        status = app.error.exit_code
    threads.shutdown(wait=False, cancel_futures=True)
    if not _threads_end(END_SECONDS):
        parachute.arm(_FLUSH_SECONDS, status)
    return status


def _threads_end(seconds: float) -> bool:
    """Waits for those that Python would wait for at its end."""
    until = time.monotonic() + seconds
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    for thread in others:
        thread.join(max(0.0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in others)
