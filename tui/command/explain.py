"""`kvchat MODEL... --explain`: how each would be loaded, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tui.command.output import colours, columns, complain, write
from tuner.engine.client import EngineClient
from tuner.errors import ExitCode, KvchatError
from tuner.model.blame import file_to_blame
from tuner.planning import Plan
from tuner.report.json import error_json, report_json
from tuner.report.overview import overview_text
from tuner.report.ranking import ranked
from tuner.report.text import report_parts
from tuner.tuning import Tuning
from tuner.wishes import LaunchRequest


def explain(requests: list[LaunchRequest], *, as_json: bool, verify: bool) -> int:
    """A report, or of several models a table; with `as_json` an object for each. `verify`: the
    engine's own dry run has its say. Returns the exit status."""
    worst = ExitCode.OK
    rows: list[tuple[str, Plan | KvchatError]] = []
    told: list[dict[str, Any]] = []
    for request in requests:
        path = str(request.path)
        try:
            with file_to_blame(request.path):
                tuning = Tuning.of(request)
                plan = tuning.plan()
            if verify:
                plan = _verified(tuning, plan)
            with file_to_blame(request.path):
                told += [report_json(plan, tuning.advise(plan))] if as_json else []
        except KvchatError as error:
            if len(requests) == 1 and not as_json:
                raise
            worst = error.exit_code
            rows.append((path, error))
            told.append(error_json(path, error))
            continue
        if not plan.chosen.fits and worst == ExitCode.OK:
            worst = ExitCode.NO_FIT
        rows.append((path, plan))
    if as_json:
        for row, report in zip(ranked(rows), told, strict=True):
            write(json.dumps({**report, "rank": row.rank}) + "\n")
        return worst
    color = colours()
    only = rows[0][1] if len(rows) == 1 else None
    if isinstance(only, Plan):
        asked = partial(tuning.advise, only)
        parts = report_parts(only, width=columns(), color=color, advise=asked)
        while (part := _next(parts, requests[0].path)) is not None:
            write(part, coloured=color)
    else:
        write(overview_text(rows, width=columns(), color=color), coloured=color)
        for _, result in rows:
            if isinstance(result, KvchatError):
                complain(str(result))
    return worst


def _next(parts: Iterator[str], path: Path) -> str | None:
    """The next part of a file's report, if there is one; writing it is another matter."""
    with file_to_blame(path):
        return next(parts, None)


def _verified(tuning: Tuning, plan: Plan) -> Plan:
    """The plan after the engine's dry run, in a model process of its own."""
    with EngineClient() as client:
        return tuning.verify(plan, client)
