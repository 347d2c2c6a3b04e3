"""`kvchat MODEL --compare-log FILE`: another program's log beside what kvchat predicts."""

from __future__ import annotations

import json
from pathlib import Path

from tui.command.output import Progress, colours, columns, write
from tuner.errors import ExitCode, FileError, UsageError
from tuner.logs.compared import compared
from tuner.logs.files import read_loads
from tuner.model.blame import file_to_blame
from tuner.model.model import Model
from tuner.report.logged import compared_json, compared_text
from tuner.safe_text import cut
from tuner.units import MIB, size_text
from tuner.wishes import LaunchRequest

_QUICKLY_READ = 64 * MIB


def compare_log(model: Model, request: LaunchRequest, log: Path, *, as_json: bool) -> int:
    """Prints a table for each load of the log; `as_json`: one object. The request's wishes stand
    in for what the log does not say. Progress goes to stderr, where that is a terminal.

    Raises FileError where the log cannot be used, or is of another model altogether, UsageError
    where the request states a machine: that is the log's.
    """
    if request.stated or request.rpc_servers or request.reserve is not None:
        raise UsageError("--compare-log takes the machine from the log: leave out what states one.")
    status = Progress()

    def on_read(n_read: int) -> None:
        if n_read > _QUICKLY_READ:
            status.show(f"{size_text(n_read)} of the log read")

    try:
        loads = read_loads(log, on_read)
    finally:
        status.show("")
    with file_to_blame(model.path):
        wishes = request.wishes.for_model(model)
        found = [compared(model, load, wishes) for load in loads]
    if all(load.problem for load in found):
        first = found[0].problem
        why = f"{first[:1].lower()}{first[1:]}"
        raise FileError("other_log", log, f"The log {cut(str(log))} cannot be compared: {why}")
    if as_json:
        write(json.dumps(compared_json(model, log, found)) + "\n")
        return ExitCode.OK
    color = colours()
    write(compared_text(model, found, width=columns(), color=color), coloured=color)
    return ExitCode.OK
