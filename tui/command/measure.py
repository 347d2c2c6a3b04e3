"""`kvchat MODEL --measure`: what each pair of cache types costs this model in quality."""

from __future__ import annotations

import json
from pathlib import Path

from tui.command.following import followed
from tui.command.output import Progress, colours, columns, tell, write
from tui.command.signals import end_by_signals
from tuner.errors import EngineCancelled, ExitCode, UsageError
from tuner.launch import Launcher
from tuner.measuring import Text, measured
from tuner.model.model import Model
from tuner.private_files import read_bounded, why
from tuner.report.losses import losses_json, losses_text
from tuner.wishes import LaunchRequest

_MAX_TEXT = 16 << 20  # bytes
LEAST_WIDTH = 50  # of a plot that says anything


def measure(
    request: LaunchRequest, model: Model, text: Text, n_tokens: int | None, *, as_json: bool
) -> int:
    """Prints a table and, where it is wide enough, a plot; `as_json`: one object. Progress goes to
    stderr, where that is a terminal.

    Raises KvchatError as a launch does.
    """
    if request.stated:
        raise UsageError("--measure runs the model: leave out what states another machine.")
    launcher = Launcher(request)
    end_by_signals(launcher.kill)
    status = Progress()
    try:
        *_, losses = followed(measured(launcher, text, n_tokens), status)
    except EngineCancelled:
        return ExitCode.INTERRUPTED
    finally:
        status.show("")
        launcher.close()
    if as_json:
        write(json.dumps(losses_json(model, losses)) + "\n")
        return ExitCode.OK
    color, width = colours(), columns()
    write(losses_text(model, losses, width=width, color=color), coloured=color)
    if width >= LEAST_WIDTH and len(losses.pairs) > 2:  # noqa: PLR2004 - two points are no plot
        from tui.command.loss_plot import loss_plot  # noqa: PLC0415

        write("\n" + loss_plot(losses, width))
    if request.use_profile:
        tell("what was measured is kept in the profile, and plans go by it from now on")
    return ExitCode.OK


def text_of(path: str | None) -> Text:
    """The text that `--text` names, or the built-in one. Raises UsageError."""
    if path is None:
        return Text.built_in()
    try:
        raw = read_bounded(Path(path), _MAX_TEXT)
        text = raw[:_MAX_TEXT].decode("utf-8", "strict" if len(raw) <= _MAX_TEXT else "ignore")
    except (OSError, ValueError) as error:
        said = why(error) if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UsageError(f"--text {path} cannot be read ({said}).") from None
    if not text.strip():
        raise UsageError(f"--text {path} is empty.")
    if "\0" in text:
        raise UsageError(f"--text {path} cannot be read (it is no text).")
    return Text(text, Path(path).name)
