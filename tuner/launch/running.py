"""A loaded model: what is asked of it, and what its answers teach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from tuner.engine.protocol import (
    AnswerEvent,
    Done,
    Generate,
    Loaded,
    LossesMeasured,
    MeasureLosses,
    MeasureSpeed,
    Message,
    Progress,
    Sampling,
    SpeedMeasured,
    StateRestored,
    StateSaved,
    Timed,
)
from tuner.engine.thinking import nearest
from tuner.errors import EngineCancelled, EngineError, NoFitError
from tuner.launch.events import LaunchEvent, Look
from tuner.launch.standing import Standing, is_long, standing
from tuner.machine.machine import Machine
from tuner.machine.measure import gpu_readings, ram_used
from tuner.machine.vitals import Vitals
from tuner.memory.checkpoints import CheckpointSizes
from tuner.memory.footprint import ENGINE_KINDS
from tuner.memory.kv_cache import CacheSizes
from tuner.model.model import Model
from tuner.planning import Candidate, Explorer, Plan, with_choice
from tuner.planning.advice import Advice
from tuner.profiles.actual import Actual
from tuner.report.text import report_text, shapes_text
from tuner.settings import Settings
from tuner.tuning import Tuning

if TYPE_CHECKING:
    from tuner.launch.launcher import Launcher

# Shorter answers and prompts say nothing about speed.
MEASURED_TOKENS = 48
MEASURED_PROMPT = 128
# Nor does one of which the engine's threads had less than this share of their cores: another
# program took it. On a machine that does nothing else they have nearly all of it.
LEAST_CORES = 0.75

HELD = 0.98  # of what the engine has on a GPU: where less is in use there, the rest is elsewhere


class Running:
    """A loaded model, ready to answer. Every method but `stop` and `kill` blocks and belongs in a
    thread."""

    def __init__(
        self,
        launcher: Launcher,
        tuning: Tuning,
        plan: Plan,
        loaded: Loaded,
        actual: Actual,
        standing: Standing | None = None,
        *,
        in_place: bool = False,
    ) -> None:
        """`standing`: how the GPUs stood once it was loaded; None: with what was loaded before.
        `in_place`: the weights were there, and only the cache is another."""
        self.in_place = in_place
        self.n_moved = loaded.n_moved  # tokens that were read before, and need not be again
        self.plan, self.actual = plan, actual
        self._loaded = loaded
        self._launcher, self._tuning = launcher, tuning
        self._client = launcher.client
        self._settings = replace(plan.chosen.settings, n_ctx=loaded.n_ctx)
        self._cache = CacheSizes(plan.model.hparams)
        self._format = loaded.chat_template  # of the last prompt
        self._standing = standing  # None: what a long prompt takes is known, or never will be
        self._whole_batch = False  # a micro-batch was as large as they get
        self._asked: Mapping[str, int] = {}  # bytes that were free, by the engine's own word
        self._advice: Advice | None = None  # once it was asked for
        # A screen that is resized asks again before it has its answer, and there is one solver.
        self._reporting = Lock()

    @property
    def model(self) -> Model:
        return self.plan.model

    @property
    def tuning(self) -> Tuning:
        """What planned it."""
        return self._tuning

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should hear of the plan, the load, and what could not be kept of them; a
        later answer may add to it."""
        said = (*self.plan.warnings, *self._loaded.warnings, *self._client.warnings)
        return tuple(dict.fromkeys((*said, *self._tuning.lessons.warnings)))

    @property
    def sampling(self) -> Sampling:
        """As the flags, the profile and the file have it."""
        return self.plan.sampling.sampling

    @property
    def settings(self) -> Settings:
        """As loaded: `n_ctx` is what the engine made of it."""
        return self._settings

    @property
    def log_path(self) -> Path:
        return self._client.log_path

    def report_text(self, width: int) -> str:
        """The fit report of this load, predicted against actual."""
        with self._reporting:
            if self._advice is None:
                self._advice = self._tuning.advise(self.plan)
            return report_text(self.plan, width=width, actual=self.actual, advice=self._advice)

    @property
    def think(self) -> str:
        """The level of thinking to begin with; "" where the template decides. One that was kept
        is as near as the template has it: what it lacks was told when it was asked for."""
        asked, kept = self._launcher.request.think, self._tuning.lessons.think
        return asked or nearest(kept, self.think_levels, self.usual_think)

    def remember_think(self, level: str) -> None:
        """Keeps the level that was chosen for the next launch of this model."""
        self._tuning.lessons.remember_think(level)

    @property
    def think_levels(self) -> tuple[str, ...]:
        """The levels of thinking that the model's template offers."""
        return self._loaded.think

    @property
    def usual_think(self) -> str:
        """The level that the template has by itself; "" where it is none of these."""
        return self._loaded.usual_think

    def status(self) -> str:
        """The settings in a few words, and first that ChatML stands in for the template."""
        stands_in = "ChatML · " if self._format == "chatml" else ""
        return stands_in + placement(self.model, self.plan.machine, self._settings)

    @property
    def goes_back(self) -> bool:
        """Whether its cache can be cut anywhere: it has neither states nor windows."""
        return not CheckpointSizes(self.model.hparams).bytes(self._settings)

    def vitals(self) -> Vitals:
        """How the memory stands now."""
        gpus, pid = gpu_readings(self.plan.machine), self._client.pid
        uses = {use.device: use for use in self.actual.footprint.uses}
        # On some systems a driver moves to RAM what a GPU has no room for, and says nothing.
        spilled = pid is not None and any(
            reading.used < HELD * sum(getattr(uses[name], kind) for kind in ENGINE_KINDS)
            for name, reading in gpus.items()
        )
        return Vitals(gpus, ram_used(pid), spilled)

    def cache_bytes(self, n_tokens: int) -> tuple[int, int]:
        """Bytes of the cache, states included, that so many tokens fill, and all that it has. Does
        not block."""
        uses = self.actual.footprint.uses
        whole = sum(use.kv_cache + use.recurrent_state for use in uses)
        filled = self._cache.filled(self._settings, 0, self.model.hparams.n_layer_all, n_tokens)
        return min(filled, whole), whole

    def expected_tps(self, depth: int) -> float:
        """Tokens/s of decoding that the plan expects with so many tokens in the cache, or a few
        more: of the next depth that it has a speed for. Does not block."""
        at = self.plan.chosen.speed.decode_tps_at
        deeper = [tps for known, tps in at.items() if known >= depth] or [*at.values()][-1:]
        return max(deeper, default=self.plan.chosen.speed.decode_tps)

    def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        continue_last: bool = False,
        think: str = "",
        may_move: bool = False,
        rest_returns: bool = False,
    ) -> Iterator[AnswerEvent]:
        """Streams an answer; the last item is `Done`. `may_move`, `rest_returns`: as in
        `Generate`. Raises EngineError."""
        request = Generate(tuple(messages), sampling, continue_last, think, may_move, rest_returns)
        used = 0
        for event in self._client.generate(request):
            if isinstance(event, Done):
                self._format = event.chat_template
                self._note_speed(event)
                self._whole_batch |= event.n_read >= self._settings.n_ubatch
                used = event.n_ctx_used
            yield event
        self._note_growth(used)

    def measure_speed(self, request: MeasureSpeed) -> Iterator[Progress | SpeedMeasured]:
        """Times the model as it is loaded; the last item is what was measured. Raises
        EngineError."""
        for event in self._client.measure_speed(request):
            if isinstance(event, SpeedMeasured):
                timed = (*event.prompts, *event.decodes)
                most = max((t.n_tokens for t in event.prompts), default=0)
                self._whole_batch |= most >= self._settings.n_ubatch
                used = max((t.depth + t.n_tokens for t in timed), default=0)
                measured = event
            else:
                yield event
        self._note_growth(used)
        yield measured

    def measure_losses(self, request: MeasureLosses) -> Iterator[Progress | LossesMeasured]:
        """Compares caches of the model; the last item is what was measured. Raises UsageError
        where the text is too short, and EngineError."""
        return self._client.measure_losses(request)

    def load_instead(self, other: Candidate) -> Iterator[LaunchEvent]:
        """Loads another plan of the same model in place of this one. It is not kept in the
        profile, and nothing else is tried where it fails."""
        plan = self.plan.offering(fallbacks=())
        solver = self._tuning.solver.like(other)
        plan = with_choice(plan, solver.exactly(other), solver)
        return self._launcher.load(self._tuning, plan, keep=False)

    def save_state(self, path: Path, most_bytes: int) -> StateSaved:
        """Writes what the cache holds to a file, the user's alone; where that cannot be, it says
        why. Raises EngineError."""
        return self._client.save_state(path, most_bytes)

    def restore_state(self, path: Path) -> StateRestored:
        """Fills the cache with what such a file holds; where that does not fit, the cache is as it
        was, and it says why. Raises EngineError."""
        return self._client.restore_state(path)

    def count_tokens(self, messages: Sequence[Message], think: str = "") -> int:
        """Tokens of a conversation as the model would be given it. Raises EngineError."""
        return self._client.count_tokens(messages, think)

    @property
    def still(self) -> float:
        """Seconds for which an answer that is under way has not got on."""
        return self._client.still

    def stop(self) -> None:
        """Ends the answer that streams, or a reload, from any thread."""
        self._launcher.cancel()

    def close(self) -> None:
        self._launcher.close()

    def kill(self) -> None:
        """Ends the model process at once; whoever waits for it hears of that."""
        self._client.kill()

    def explorer(self) -> Explorer:
        """For trying out other settings, beginning with these, in the memory that was free before
        the model was loaded."""
        return self._tuning.explorer(self.plan.chosen.settings)

    def change(self, settings: Settings, *, keep: bool | None) -> Iterator[LaunchEvent]:
        """Loads other settings in place of these, and these again where that fails
        (`Launcher.change`)."""
        return self._launcher.change(settings, self, keep=keep)

    def try_out(self, settings: Settings, before: Settings | None) -> Iterator[LaunchEvent]:
        """Loads other settings for a while, or else those from `before` (`Launcher.try_out`)."""
        return self._launcher.try_out(settings, self, before)

    def shapes_text(self) -> str:
        """What types the cache could have where the weights lie, and how long a context each."""
        return shapes_text(self.plan) if self.plan.shapes else "the cache has no other shape here"

    def reshaped(self, n_ctx: int | None, types: tuple[str, str] | None, least: int) -> Settings:
        """The settings with another cache that fits the memory that is free now; `least`: tokens
        that it must hold. Raises NoFitError."""
        found = self._tuning.reshaped(
            self.plan, self.machine_now(), n_ctx=n_ctx, types=types, least=least
        )
        if isinstance(found, str):
            raise NoFitError(found)
        return found.chosen.settings

    def look(self, *, busy: bool, least: int) -> Look:
        """How this suits the memory that is free now (`Balancer.look`); to be asked every few
        seconds."""
        request = self._launcher.request
        chosen = request.settings is not None
        return self._launcher.balancer.look(
            self, request.rebalance, chosen=chosen, busy=busy, least=least
        )

    def machine_now(self, *, waits: bool = True) -> Machine:
        """The machine as it is now, with what this model takes counted as free. Milliseconds; GPUs
        that NVML does not know are asked for by the model's own process, which has them open, and
        are as they were last where that does not answer or, without `waits`, has something to do.
        """
        # A server elsewhere may be out of reach for a while: nobody is to die of a look at it.
        gpus = self.plan.machine.gpus
        unknown = [gpu.engine_name for gpu in gpus if not gpu.uuid and gpu.kind != "rpc"]
        with suppress(EngineError, EngineCancelled):
            memory = self._client.device_memory(unknown, waits=waits) if unknown else None
            if memory is not None:
                self._asked = {device.name: device.free for device in memory}
        return self._tuning.machine_now(self.actual.footprint, self._client.pid, self._asked)

    def less(self, words: str) -> Iterator[LaunchEvent]:
        """Loads the next smaller plan, where an answer ran out of memory, by the engine's `words`.
        Raises KvchatError where there is none, or it cannot be loaded either: nothing is, then."""
        plan = self._tuning.ran_out(self.plan, words, self._client.pid)
        if plan is None:
            raise NoFitError("There is no smaller plan: nothing takes less memory than what ran.")
        yield from self.try_out(plan.chosen.settings, None)

    @property
    def alive(self) -> bool:
        """Whether the model process runs."""
        return self._client.alive

    def _note_growth(self, n_used: int) -> None:
        """Looks, once there was a long prompt, what it took of the GPUs."""
        loaded = self._standing
        if not (loaded and self._whole_batch and is_long(n_used, self._settings.n_ctx)):
            return
        self._standing = None
        now, n_ubatch = standing(self._client, self.plan.machine), self._settings.n_ubatch
        self.actual = self._tuning.learn_growth(self.actual, n_ubatch, loaded, now)

    def _note_speed(self, done: Done) -> None:
        if done.n_decoded < MEASURED_TOKENS or done.decode_seconds <= 0:
            return
        cores = done.decode_cpu_seconds / done.decode_seconds
        began = done.n_ctx_used - done.n_decoded
        decode = Timed(began, done.n_decoded, done.decode_seconds, cores)
        if cores_were_taken(self._settings, self._tuning.threads, [decode]):
            return
        fresh = done.n_read
        read = fresh >= MEASURED_PROMPT and done.prompt_seconds > 0
        prompts = [Timed(done.n_reused, fresh, done.prompt_seconds, 0.0)] if read else []
        self.learn_speed([decode], prompts)

    def learn_speed(self, decodes: Sequence[Timed], prompts: Sequence[Timed]) -> None:
        """Keeps what was timed: of this model the last of each, of the machine's devices all."""
        actual = self.actual
        if decodes:
            last = decodes[-1]
            actual = replace(actual, decode_tps=last.tps, decode_depth=last.mean_depth)
        if prompts:
            last = prompts[-1]
            actual = replace(actual, prompt_tps=last.tps, prompt_depth=last.mean_depth)
        self.actual = actual
        self._tuning.learn_speed(self.plan, actual, decodes, prompts)


def placement(model: Model, machine: Machine, settings: Settings) -> str:
    """Where layers and cache are, in a few words."""
    s, items = settings, model.n_items
    cache = s.type_k if s.type_k == s.type_v else f"{s.type_k}/{s.type_v}"
    if not machine.gpus:
        return f"CPU · KV {cache}"
    where = f"{min(s.n_gpu_layers, items)}/{items} layers on GPU"
    if s.n_cpu_moe:
        where += f", experts of {s.n_cpu_moe} in RAM"
    return f"{where} · KV {cache}"


def cores_were_taken(settings: Settings, n_threads: int, timed: Iterable[Timed]) -> bool:
    """Whether other programs had the cores that the engine computed on. Where it computes on GPUs,
    its threads wait by themselves, and nothing can be said; nor where it is not known."""
    if settings.n_gpu_layers:
        return False
    return any(0 < each.cores < LEAST_CORES * n_threads for each in timed)
