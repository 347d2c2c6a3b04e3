"""What whoever wants a model holds on to: begins a launch, chooses, ends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.engine.client import EngineClient
from tuner.engine.planned_file import stamps
from tuner.errors import EngineCancelled, EngineError, KvchatError
from tuner.launch.carrying import Carried, carried
from tuner.launch.events import LaunchEvent, Ready, Retry, Stage
from tuner.settings import OnGpus, Settings
from tuner.wishes import LaunchRequest

if TYPE_CHECKING:
    from tuner.launch.balancing import Balancer
    from tuner.launch.running import Running
    from tuner.launch.standing import Standing
    from tuner.planning import Explorer, Plan
    from tuner.tuning import Tuning

REPLANS = 3  # of a file that changes under a launch


class Launcher:
    """Plans and loads one model file. `start` may be called again after a failure or a death.

    The planner is imported where it is called first, by the thread that loads: that takes longer
    than drawing a prompt."""

    def __init__(self, request: LaunchRequest, client: EngineClient | None = None) -> None:
        self.request = request
        self.client = client or EngineClient()
        self._cancelled = False  # no Event: a signal handler sets it, and must not wait for a lock
        self._over = False  # likewise
        self._balancer: Balancer | None = None
        # How NVIDIA's cards stood while the process that runs had nothing of them.
        self.untouched: Standing = {}

    @property
    def balancer(self) -> Balancer:
        """Whose memory outlives what is loaded."""
        from tuner.launch.balancing import Balancer  # noqa: PLC0415

        if self._balancer is None:
            self._balancer = Balancer()
        return self._balancer

    @property
    def path(self) -> Path:
        return self.request.path

    @property
    def still(self) -> float:
        """Seconds for which the engine has not got on with what it was asked."""
        return self.client.still

    def start(self, once: Settings | None = None) -> Iterator[LaunchEvent]:
        """Events up to `Ready`. Raises KvchatError; EngineCancelled after `cancel`. `once`: these
        are loaded as they are, this time alone."""
        from tuner.launch.loading import planned_and_loaded  # noqa: PLC0415

        self._cancelled = False
        for again in range(REPLANS + 1):
            path = self.path
            before = stamps([path])
            try:
                yield from planned_and_loaded(self, once)
                return
            except EngineError as error:
                # A file that is cut while it is mapped kills its reader (SIGBUS).
                cut = error.kind == "crashed" and stamps([path]) != before
                if again == REPLANS or not (cut or error.kind == "changed"):
                    raise
                what = f"{path} changed while it was loaded." if cut else str(error)
                yield Retry(f"{what} It is read and planned again.")

    def load(self, tuning: Tuning, plan: Plan, *, keep: bool = True) -> Iterator[LaunchEvent]:
        """Loads the choice; where memory runs out all the same, what takes less of it. `keep`: it
        is what the profile has from now on."""
        from tuner.launch.loading import loaded  # noqa: PLC0415

        return loaded(self, tuning, plan, keep=keep)

    def explorer(self) -> Explorer:
        """For trying out settings before a load, beginning with the plan's. Raises KvchatError."""
        from tuner.launch.loading import explorer  # noqa: PLC0415

        return explorer(self.request)

    def choose(self, settings: Settings, *, keep: bool | None) -> None:
        """What `start` loads from now on, as it is and nothing else. `keep`: whether later launches
        shall do the same; None leaves that as it was."""
        self.request = replace(self.request, settings=settings, keeps_settings=keep)

    def change(
        self, settings: Settings, running: Running, *, keep: bool | None
    ) -> Iterator[LaunchEvent]:
        """Loads other settings in place of those that run, which are loaded again where the others
        cannot be, or after a `cancel`. `keep`: as in `choose`. What the cache holds goes along;
        where the weights lie as they did, they stay."""
        request = self.request
        self.choose(settings, keep=keep)
        before = running.plan.chosen.settings
        if self._weights_stay(settings, running):
            yield from self._reshape(running, None, before, request)
        else:
            yield from self._instead(self.start(), running, before, request)

    def try_out(
        self, settings: Settings, running: Running, before: Settings | None
    ) -> Iterator[LaunchEvent]:
        """The same for a while: what `start` loads stays as it was. `before`: what is loaded where
        these cannot be; None: nothing. Raises KvchatError then."""
        if self._weights_stay(settings, running):
            yield from self._reshape(running, settings, before, self.request)
        else:
            yield from self._instead(self.start(settings), running, before, self.request)

    def _weights_stay(self, settings: Settings, running: Running) -> bool:
        """Whether they lie where these settings want them: as much, on the same GPUs."""
        there = tuple(gpu.id for gpu in running.plan.machine.gpus)
        elsewhere = isinstance(settings, OnGpus) and settings.gpus != there
        same = settings.weights == running.plan.chosen.settings.weights
        return self.client.alive and same and not elsewhere

    def _reshape(
        self,
        running: Running,
        once: Settings | None,
        before: Settings | None,
        request: LaunchRequest,
    ) -> Iterator[LaunchEvent]:
        from tuner.launch.loading import reshaped  # noqa: PLC0415

        self._cancelled = False
        try:
            yield from reshaped(self, running, once)
            return
        except KvchatError as error:
            if self._over or before is None:
                self.client.close()
                raise
            why = _why(error)
            stays = self.client.alive and error.kind != "not_loaded"
        self.request = request
        if stays and _runs(running, before):
            yield from _staying(running, why)
        else:
            yield Retry(f"{why}. The model is loaded again as it was.")
            yield from self._instead(self.start(before), running, None, request)

    def _instead(
        self,
        load: Iterator[LaunchEvent],
        running: Running,
        before: Settings | None,
        request: LaunchRequest,
    ) -> Iterator[LaunchEvent]:
        self._cancelled = False
        yield Stage("keeping what was read")
        with carried(self.client, on_disk=request.states_on_disk) as held:
            stays = self._cancelled and self.client.alive and _runs(running, before)
            if not stays:
                self.client.close()  # what it holds is free for the others, and measured so
            try:
                self.check()  # it may have taken long, and a start forgets that it was cancelled
                yield from _with(held, load)
                return
            except KvchatError as error:
                if self._over or before is None:
                    raise
                why = _why(error)
            self.request = request
            if stays:
                yield from _staying(running, why)
                return
            yield Retry(f"{why}. The model is loaded again as it was.")
            yield from _with(held, self.start(before))

    def cancel(self) -> None:
        """Ends a launch as soon as possible, from any thread."""
        self._cancelled = True
        self.client.stop()

    def kill(self) -> None:
        """Ends a launch and the model process at once, whatever they do; a signal handler may call
        it."""
        self._over = True
        self.client.kill()

    def close(self) -> None:
        """Ends the model process in order, and a launch."""
        self._over = True
        self.client.close()

    def check(self) -> None:
        """Raises EngineCancelled where the launch is to end."""
        if self._cancelled or self._over:
            raise EngineCancelled("the launch was cancelled")


def _runs(running: Running, settings: Settings | None) -> bool:
    """Whether it is loaded with these, as they were planned or as the engine made them."""
    return settings in (running.plan.chosen.settings, running.settings)


def _staying(running: Running, why: str) -> Iterator[LaunchEvent]:
    yield Retry(f"{why}. The model stays as it was.")
    yield Ready(running)


def _why(error: KvchatError) -> str:
    return "It was cancelled" if isinstance(error, EngineCancelled) else str(error).rstrip(".")


def _with(held: Carried, load: Iterator[LaunchEvent]) -> Iterator[LaunchEvent]:
    """A launch, with what the cache held before in it at the end."""
    for event in load:
        if isinstance(event, Ready):
            event.running.n_moved = held.put_down()
        yield event
