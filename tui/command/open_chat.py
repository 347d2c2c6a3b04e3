"""Opens the chat on the terminal and turns how it ended into an exit status."""

from __future__ import annotations

import sys

from tui.app import KvchatApp
from tui.key_file import read_keymap
from tui.storage import Conversations
from tuner.engine.protocol import Sampling
from tuner.errors import ExitCode
from tuner.launch import Launcher
from tuner.safe_text import one_line
from tuner.wishes import LaunchRequest


def open_chat(
    request: LaunchRequest, sampling: Sampling, system: str | None, resume: str | None
) -> int:
    """Runs the app until the user leaves. A launch that failed is said again on stderr."""
    launcher = Launcher(request)
    keymap, problems = read_keymap()
    try:
        app = KvchatApp(
            launcher=launcher,
            store=Conversations.open(None),
            sampling=sampling,
            system_prompt=system,
            resume=resume,
            keymap=keymap,
            warnings=problems,
        )
        app.run()
    finally:
        launcher.client.close()
    if app.unsaved:
        print(f"kvchat: not all of this chat was saved. {one_line(app.unsaved)}", file=sys.stderr)
    if app.error is not None:
        print(f"kvchat: {one_line(str(app.error))}", file=sys.stderr)
        return app.error.exit_code
    return app.return_code or ExitCode.OK
