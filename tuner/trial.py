"""Loads plans of a model and times them: receipts for what was predicted.

Everything here blocks and belongs in a thread; what happens is told as events.
"""

from __future__ import annotations

from collections.abc import Iterator

from tuner.engine.protocol import MeasureSpeed, Progress, SpeedMeasured, Timed
from tuner.launch import Launcher, Planned, Ready, Retry, Stage
from tuner.launch.running import Running, cores_were_taken
from tuner.planning.speed import CHAT_DEPTH, QUOTED_DEPTH
from tuner.report.receipt import Receipt, Timing
from tuner.settings import Settings

SHORT_PROMPT = 128  # tokens: less than the usual n_ubatch
DEPTHS = (0, QUOTED_DEPTH, CHAT_DEPTH)  # tokens in the cache
DECODED = 32  # tokens at each
SECONDS = 60.0  # for the timing of one plan
OTHERS = 2  # of the plan's alternatives, in a thorough trial

TrialEvent = Stage | Planned | Retry | Receipt


def trial(launcher: Launcher, *, thorough: bool = False) -> Iterator[TrialEvent]:
    """Loads and times the choice, and if `thorough` two alternatives; a receipt for each. Raises
    as a launch does."""
    chosen: Running | None = None
    for event in launcher.start():
        if isinstance(event, Ready):
            chosen = event.running
        else:
            yield event
    assert chosen is not None
    yield from _timed(chosen, "the choice")
    for other in chosen.plan.alternatives[:OTHERS] if thorough else ():
        for event in chosen.load_instead(other):
            if isinstance(event, Ready):
                yield from _timed(event.running, other.note)
            else:
                yield event


def _timed(running: Running, name: str) -> Iterator[TrialEvent]:
    request = request_for(running.settings)
    for event in running.measure_speed(request):
        match event:
            case Progress(fraction):
                yield Stage(f"timing {name}", fraction)
            case SpeedMeasured():
                told = receipt(running, request, event)  # first: as it was predicted without
                if not told.busy:
                    running.learn_speed(event.decodes, event.prompts)
                yield told


def request_for(settings: Settings) -> MeasureSpeed:
    """What is to be timed of these settings: no deeper than their context allows."""
    deepest = settings.n_ctx - DECODED
    depths = sorted({min(depth, deepest) for depth in DEPTHS})
    return MeasureSpeed(
        min(SHORT_PROMPT, settings.n_ubatch // 2 or 1), tuple(depths), DECODED, SECONDS
    )


def receipt(running: Running, request: MeasureSpeed, measured: SpeedMeasured) -> Receipt:
    """What was measured of a running model, beside what was predicted."""
    settings, tuning = running.settings, running.tuning

    def timings(kind: str, all_timed: tuple[Timed, ...]) -> tuple[Timing, ...]:
        return tuple(Timing(t, tuning.predicted_tps(settings, kind, t)) for t in all_timed)

    return Receipt(
        running.plan,
        running.actual,
        timings("prompt", measured.prompts),
        timings("decode", measured.decodes),
        request.depths[len(measured.decodes) :],
        measured.n_threads,
        cores_were_taken(settings, measured.n_threads, (*measured.prompts, *measured.decodes)),
    )
