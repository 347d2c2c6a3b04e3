"""The way of a launch: read and measure, plan, verify, load, learn. Told as events."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace

from tuner.engine.protocol import Loaded, Progress, Reshape
from tuner.errors import EngineError, NoFitError
from tuner.launch.carrying import spill_folder
from tuner.launch.events import LaunchEvent, Planned, Ready, Retry, Stage
from tuner.launch.launcher import Launcher
from tuner.launch.running import Running, placement
from tuner.launch.standing import standing, told
from tuner.machine.held import by_nvml
from tuner.planning import Explorer, Plan, difference_text
from tuner.planning.advice import Advice
from tuner.planning.shortage import short_text
from tuner.profiles.actual import after_growth
from tuner.report.advice import advice_lines
from tuner.settings import Settings
from tuner.tuning import Tuning
from tuner.wishes import LaunchRequest

_READ_AGAIN = "the conversation is read again, as its cache could not be moved: {why}"


def planned_and_loaded(launcher: Launcher, once: Settings | None) -> Iterator[LaunchEvent]:
    """A launch from the file to `Ready`; `once` as in `Launcher.start`. Raises KvchatError."""
    launcher.check()
    yield Stage("reading the header and measuring memory")
    asked = launcher.request
    if once is not None:
        asked = replace(asked, settings=once, keeps_settings=None)
    tuning = Tuning.of(asked)
    # The path is the model's from now on. A later start reads the file again.
    launcher.request = replace(launcher.request, path=tuning.model.path, model=None)
    launcher.check()
    yield Stage("planning")
    plan = tuning.plan()
    if not plan.chosen.fits:
        raise NoFitError(_why_not(tuning, plan))
    launcher.check()
    yield Stage("checking the plan with the engine")
    if not launcher.client.alive:  # a dry run opens the devices
        launcher.untouched = by_nvml(tuning.machine)
    plan = tuning.verify(plan, launcher.client)
    if not plan.chosen.fits:
        raise NoFitError(_why_not(tuning, plan))
    yield from loaded(launcher, tuning, plan)


def reshaped(launcher: Launcher, running: Running, once: Settings | None) -> Iterator[LaunchEvent]:
    """The same for settings that differ only in what a context has by itself: the weights stay, and
    what is in the cache is moved into another one. Raises KvchatError; what runs then runs on as it
    was, unless that was the engine's, of kind "not_loaded", or a death."""
    launcher.check()
    yield Stage("measuring memory")
    asked = launcher.request
    if once is not None:
        asked = replace(asked, settings=once, keeps_settings=None)
    tuning = Tuning.of(asked, running.machine_now())
    launcher.check()
    plan = tuning.verify(tuning.plan(), launcher.client)
    if not plan.chosen.fits:
        raise NoFitError(_why_not(tuning, plan))
    settings = plan.chosen.settings
    words = placement(plan.model, plan.machine, settings)
    yield Planned(words, settings.n_ctx, plan.model.size_bytes)
    launcher.check()
    request = tuning.load_request(settings)
    folder = spill_folder() if launcher.request.states_on_disk else ""
    reshape = Reshape(settings, request.kept_bytes, folder)
    for event in launcher.client.reshape(reshape):
        match event:
            case Progress(fraction):
                yield Stage("changing the cache", fraction)
            case Loaded(n_moved=0, not_moved=why) if why:
                done = replace(event, warnings=(*event.warnings, _READ_AGAIN.format(why=why)))
            case Loaded():
                done = event
    actual = tuning.learn(plan, done, {}, {})
    if running.actual.grown:  # the process that took it goes on
        actual = after_growth(actual, running.actual.grown)
    yield Ready(Running(launcher, tuning, plan, done, actual, in_place=True))


def explorer(request: LaunchRequest) -> Explorer:
    """For trying out settings before a load, beginning with the plan's. Raises KvchatError."""
    tuning = Tuning.of(request)
    return tuning.explorer(tuning.plan().chosen.settings)


def loaded(
    launcher: Launcher, tuning: Tuning, plan: Plan, *, keep: bool = True
) -> Iterator[LaunchEvent]:
    """`Launcher.load`."""
    reached = plan
    while True:
        attempt = reached.chosen
        words = placement(reached.model, reached.machine, attempt.settings)
        yield Planned(words, attempt.settings.n_ctx, reached.model.size_bytes)
        try:
            done = yield from _load(launcher, attempt.settings, tuning)
            break
        except EngineError as error:
            if error.kind != "out_of_memory":
                raise
            smaller = tuning.ran_out(reached, str(error), launcher.client.pid)
            if smaller is None:
                raise
            less = difference_text(plan.model, attempt, smaller.chosen)
            yield Retry(f"Out of memory; trying {less or 'another split'}.")
            reached = smaller
    if reached is not plan:
        why = "What was planned first ran out of memory while it was loaded."
        reached = replace(reached, reasons=(*reached.reasons, why))
    before = {**launcher.untouched, **told(tuning.machine, done.untouched)}
    now = standing(launcher.client, tuning.machine)
    actual = tuning.learn(reached, done, before, now, keep=keep)
    yield Ready(Running(launcher, tuning, reached, done, actual, now))


def _load(
    launcher: Launcher, settings: Settings, tuning: Tuning
) -> Generator[LaunchEvent, None, Loaded]:
    launcher.check()
    for event in launcher.client.load(tuning.load_request(settings)):
        match event:
            case Progress(fraction):
                yield Stage("loading the model", fraction)
            case Loaded():
                return event
    raise EngineError("load_failed", "the engine ended a load without a word")


def _why_not(tuning: Tuning, plan: Plan) -> str:
    if tuning.request.settings is None:
        return no_fit_text(plan, tuning.advise(plan))
    short = short_text(plan.chosen, plan.machine, tuning.solver.budgets)
    return f"What was chosen does not fit the memory that is free now: {short}."


def no_fit_text(plan: Plan, advice: Advice) -> str:
    """What is missing, by which flags it would fit, and what else would help."""
    return " ".join((*plan.reasons, *advice_lines(plan, advice)))
