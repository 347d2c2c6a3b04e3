"""`kvchat MODEL --bench`: what was predicted of a plan, beside what it takes and does here."""

from __future__ import annotations

import json

from tui.command.following import followed
from tui.command.output import Progress, colours, columns, tell, write
from tui.command.signals import end_by_signals
from tui.command.version import installed_version
from tuner.errors import EngineCancelled, ExitCode, UsageError
from tuner.launch import Launcher
from tuner.report.receipt import receipts_json, receipts_text
from tuner.trial import trial
from tuner.wishes import LaunchRequest


def bench(request: LaunchRequest, *, thorough: bool, as_json: bool) -> int:
    """Prints the receipts as a table and, last, as one line of JSON; `as_json`: that alone.
    Progress goes to stderr, where that is a terminal.

    Raises KvchatError as a launch does.
    """
    if request.stated:
        raise UsageError("--bench measures this machine: leave out what states another one.")
    launcher = Launcher(request)
    end_by_signals(launcher.kill)
    status = Progress()
    try:
        receipts = list(followed(trial(launcher, thorough=thorough), status))
    except EngineCancelled:
        return ExitCode.INTERRUPTED
    finally:
        status.show("")
        launcher.client.close()
    for warning in receipts[0].plan.warnings:
        tell(warning)
    line = json.dumps(receipts_json(receipts, installed_version()))
    if not as_json:
        color = colours()
        write(receipts_text(receipts, width=columns(), color=color) + "\n", coloured=color)
    write(line + "\n")
    return ExitCode.OK
