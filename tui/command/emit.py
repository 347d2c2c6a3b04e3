"""`kvchat MODEL --emit PROGRAM`: the plan as another program takes it."""

from __future__ import annotations

from tui.command.output import tell, write
from tuner.errors import ExitCode, NoFitError
from tuner.launch.loading import no_fit_text
from tuner.report.emit.carried import Carried
from tuner.report.emit.targets import TARGETS
from tuner.tuning import Tuning
from tuner.wishes import LaunchRequest


def emit(request: LaunchRequest, program: str, template_file: str) -> int:
    """A command, code or settings on stdout; warnings go to stderr. Raises NoFitError where
    there is no plan to take along, and whatever planning raises."""
    tuning = Tuning.of(request)
    plan = tuning.plan()
    if not plan.chosen.fits:
        raise NoFitError(no_fit_text(plan, tuning.advise(plan)))
    carried = Carried(
        plan, tuning.threads, request.rpc_servers, request.chat_template, template_file
    )
    write(TARGETS[program](carried))
    for warning in plan.warnings:
        tell(warning)
    return ExitCode.OK
