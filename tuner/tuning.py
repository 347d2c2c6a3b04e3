"""One model on one machine at one moment: what was asked, read, measured and remembered."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from tuner.engine.client import EngineClient
from tuner.engine.protocol import Load, Loaded, Timed
from tuner.engine_version import ENGINE_VERSION, installed_engine_version
from tuner.errors import NoFitError
from tuner.machine import measure
from tuner.machine.again import measured_again
from tuner.machine.engine_build import USUAL_WEIGHTS, ask_engine
from tuner.machine.held import Held, to_be_asked
from tuner.machine.machine import Device, Machine
from tuner.machine.stated import stated
from tuner.machine.usable import GPU_RESERVE
from tuner.memory.footprint import Buffer, Footprint
from tuner.model.blame import file_to_blame
from tuner.model.model import Model, read_model
from tuner.planning import (
    Calibration,
    Candidate,
    Explorer,
    Plan,
    Solver,
    constraints,
    make_plan,
    moved_to,
    rebalancing,
    verified,
    with_choice,
)
from tuner.planning.advice import Advice, advise
from tuner.planning.budgets import Budgets
from tuner.planning.fewer_gpus import with_only, without
from tuner.planning.kept_states import KeptStates
from tuner.planning.reshaping import reshaped
from tuner.planning.running_out import following, ran_out_on
from tuner.profiles.actual import Actual, after_growth, of_gpu
from tuner.profiles.beside import believable, overhead_seen
from tuner.profiles.lessons import (
    Lessons,
    known_beside,
    known_paces,
    known_shortfalls,
    runs_extra_bufts,
    without_repacking_text,
)
from tuner.profiles.paces import paced, parts_of, said_by
from tuner.profiles.profiles import MachineFacts, Profile, Profiles
from tuner.profiles.shortfalls import within_what_worked
from tuner.safe_text import one_line
from tuner.settings import OnGpus, Settings, on_gpus
from tuner.units import tps_text
from tuner.wishes import LaunchRequest, Wishes

# A saved choice is kept unless a fresh one is better by more than this factor of effective turns.
WORTH_CHANGING = 1.10
EXPLORED = "These settings were chosen in the fit explorer."


class Tuning:
    """Plans one model on one machine, has the engine verify it, and learns from the load."""

    def __init__(
        self,
        request: LaunchRequest,
        model: Model,
        machine: Machine,
        profiles: Profiles | None = None,
        facts: MachineFacts | None = None,
    ) -> None:
        """Of `facts`, what loads on this machine have taught, the measured part is in `machine`
        already."""
        self.request, self.model, self.machine = request, model, machine
        self._measured = machine  # with all GPUs
        facts = facts or MachineFacts()
        use_extra_bufts = runs_extra_bufts(facts, machine.engine_version)
        self._without_repacking = "" if use_extra_bufts else without_repacking_text(facts)
        wishes = replace(request.wishes, use_extra_bufts=use_extra_bufts)
        self.wishes = wishes.for_model(model)
        self.lessons = Lessons(
            profiles,
            model,
            machine,
            self.wishes,
            request.think,
            request.sampling,
            request.keeps_flags,
            request.settings,
            request.keeps_settings,
        )
        self.solver = self._new_solver()
        self.threads = request.threads or machine.threads
        # What is tried at the load, once per machine: only there is somewhere to keep the answer.
        known = request.threads or machine.n_threads or profiles is None
        self._other_threads = 0 if known else measure.other_threads()

    @classmethod
    def of(cls, request: LaunchRequest, machine: Machine | None = None) -> Tuning:
        """Reads the file, unless the request has the model, and measures the machine, unless it was
        measured. Raises FileError."""
        with file_to_blame(request.path):
            model = request.model or read_model(request.path)
        profiles = Profiles() if request.use_profile and not request.stated else None
        facts = _facts(profiles)
        machine = machine or _machine(request, facts, model)
        with file_to_blame(request.path):
            return cls(request, model, machine, profiles, facts)

    def load_request(self, settings: Settings) -> Load:
        """What the engine is asked for these settings."""
        unused = tuple(gpu.engine_name for gpu in self.machine.unusable if gpu.engine_name)
        request = self.request
        return Load(
            str(self.model.path),
            settings,
            self._threads_here,
            request.rpc_servers,
            unused,
            fingerprint=self.model.fingerprint,
            chat_template=request.chat_template,
            exact_threads=request.threads is not None,
            other_threads=self._other_threads if self._host_computes(settings) else 0,
            kept_bytes=self._kept(settings).size,
            looks_at=tuple(gpu.engine_name for gpu in to_be_asked(self.machine)),
        )

    def _kept(self, settings: Settings) -> KeptStates:
        """The RAM that a conversation's states may take beside these settings. RAM that is stated
        need not be there: there it is for one checkpoint."""
        planned = self.solver.weighed(settings, self.solver.objective(self.wishes))
        kept = KeptStates.of(planned.footprint, Budgets.of(self.machine))
        return replace(kept, size=kept.checkpoint) if self.request.ram else kept

    def _host_computes(self, settings: Settings) -> bool:
        """Whether the host's threads have more to do than to wait for GPUs."""
        whole = self.model.whole(settings.n_gpu_layers, settings.n_cpu_moe)
        return not (self.machine.gpus and whole)

    @property
    def _threads_here(self) -> int:
        """A stated machine may have more cores than the one that loads."""
        stated = self.request.cores is not None
        return min(self.threads, os.cpu_count() or 1) if stated else self.threads

    # ------------------------------------------------------------ planning

    def plan(self) -> Plan:
        """The plan, or what worked before where that is still as good. Raises UsageError."""
        with file_to_blame(self.request.path):
            fresh = make_plan(self.model, self.machine, self.wishes, solver=self.solver)
            self._settle_on(fresh.machine)
            plan = self._remembered(fresh)
        if self._without_repacking and plan.chosen.fits:
            plan = _because(plan, self._without_repacking)
        return self._warned(replace(plan, sampling=self.lessons.sampling))

    def explorer(self, start: Settings) -> Explorer:
        """For trying out settings on any of the GPUs, beginning with these on those of the plan."""
        fewer = len(self.machine.gpus) < len(self._measured.gpus)
        gpus = tuple(gpu.id for gpu in self.machine.gpus) if fewer else None
        one, other = (self._solver_on(self._measured) for _ in range(2))
        return Explorer(one, other, self.wishes, on_gpus(start, gpus))

    def _settle_on(self, machine: Machine) -> None:
        """From now on all is said of this machine, which may have a GPU less: one that a plan does
        better without."""
        if machine != self.machine:
            self.machine = self.lessons.machine = machine
            self.solver = self._new_solver()

    def _pace(self, machine: Machine) -> None:
        """From now on speeds are those of this machine, which is the same but for its paces and
        its number of threads."""
        self.machine = self.lessons.machine = machine
        self.solver = self._calibrated(self.solver.paced(machine))

    # ------------------------------------------------------------ while it is loaded

    def machine_now(
        self, loaded: Footprint, pid: int | None, asked: Mapping[str, int] | None = None
    ) -> Machine:
        """The machine as it is now, what our own process `pid` holds counted as free. `loaded`:
        what that takes of each device. `asked`: as in `measured_again`. Milliseconds, in any
        thread."""
        own = {use.device: use.total for use in loaded.uses}
        return measured_again(self.machine, own, pid, asked=asked)

    def reshaped(
        self,
        plan: Plan,
        machine: Machine,
        *,
        n_ctx: int | None = None,
        types: tuple[str, str] | None = None,
        least: int = 0,
    ) -> Plan | str:
        """The plan with another cache beside the same weights, on the machine as it is now, or why
        there is none: see `planning.reshaping.reshaped`."""
        solver = self.solver.on(machine).like(plan.chosen)
        loaded, objective = plan.chosen.settings, solver.objective(plan.wishes)
        found = reshaped(solver, objective, loaded, n_ctx=n_ctx, types=types, least=least)
        return found if isinstance(found, str) else moved_to(plan, found, solver)

    def smaller(self, plan: Plan, machine: Machine, least: int = 0) -> Plan | None:
        """A plan for the memory that is left now: see `planning.rebalancing.smaller`."""
        solver = self.solver.on(machine).like(plan.chosen)
        found = rebalancing.smaller(solver, plan.wishes, plan.chosen.settings, least)
        return None if found is None else moved_to(plan, found, solver)

    def better(self, plan: Plan, machine: Machine, least: int = 0) -> Plan | None:
        """A clearly better plan for the memory that is free now: see
        `planning.rebalancing.better`."""
        solver = self.solver.on(machine)
        found = rebalancing.better(solver, plan.wishes, plan.chosen.settings, least)
        return None if found is None else moved_to(plan, found, solver)

    # ------------------------------------------------------------ what the engine says

    def verify(self, plan: Plan, client: EngineClient) -> Plan:
        """The plan as the engine verifies it. Raises EngineError."""

        def dry_run(settings: Settings) -> Sequence[Buffer]:
            return client.dry_run(self.load_request(settings)).buffers

        return self._warned(verified(plan, dry_run, self.solver))

    def advise(self, plan: Plan) -> Advice:
        """What would help this plan beside other settings. Takes some 50 ms, where nothing
        fits up to half a second."""
        with file_to_blame(self.request.path):
            return advise(plan, self.solver)

    def ran_out(self, plan: Plan, words: str, pid: int | None = None) -> Plan | None:
        """What to load after the load of a plan ran out of memory, by the engine's `words`; None:
        there is nothing. If it is loaded, what was not to be had is kept for later plans, unless
        others took it meanwhile; from now on nothing is planned with it."""
        chosen = plan.chosen
        place = ran_out_on(words, self.machine, chosen.settings)
        if not self.request.stated and self._is_free_still(place, pid):
            self.lessons.ran_out(place, chosen.footprint.totals[place])
        left = following(plan, place, self.solver)
        if not left:
            return None
        device, most = self.machine.devices[place], left[0].footprint.totals[place]
        self.machine = self.machine.bounded(device.id, most)
        self._measured = self._measured.bounded(device.id, most)
        solver = self.solver.with_budgets(Budgets.of(self.machine))
        reached = with_choice(replace(plan, machine=self.machine), left[0], solver)
        return reached.offering(fallbacks=left[1:])

    def _is_free_still(self, place: int, pid: int | None) -> bool:
        """Whether a device has what it had when it was measured, our own process apart."""
        device = self.machine.devices[place]
        now = measured_again(self.machine, {}, pid).devices[place]
        return now.free > device.free - GPU_RESERVE // 2

    def learn(
        self,
        plan: Plan,
        loaded: Loaded,
        before: Mapping[str, Held],
        now: Mapping[str, Held],
        *,
        keep: bool = True,
    ) -> Actual:
        """What the load of a plan took; `before` is how the GPUs stood while the process had
        nothing of them, `now` after the load. `keep`: the profile has this plan from now on."""
        if loaded.faster_threads:
            self.threads, self._other_threads = loaded.faster_threads, 0
            self.lessons.remember_threads(self.machine.physical_cores, loaded.faster_threads)
            self._pace(replace(self.machine, n_threads=loaded.faster_threads))
            self._learn_paces(plan.chosen.settings, loaded.threads_tried, [])
        taken = tuple(
            now[gpu.id].since(before.get(gpu.id)) if gpu.id in now else None
            for gpu in self.machine.gpus
        )
        return self.lessons.learn(
            plan,
            loaded.buffers,
            loaded.use_extra_bufts,
            taken,
            loaded.extra_bufts_died_by,
            keep=keep,
        )

    def learn_growth(
        self, actual: Actual, n_ubatch: int, loaded: Mapping[str, Held], now: Mapping[str, Held]
    ) -> Actual:
        """What the first long prompt took: how the GPUs stood once the model was `loaded`, and now.
        What cannot be is not known, nor what is told by who told nothing of the load."""

        def grown_on(place: int, gpu: Device) -> int | None:
            then, told = loaded.get(gpu.id), now.get(gpu.id)
            if then is None or told is None:
                return None
            use, taken = actual.footprint.uses[place], of_gpu(actual.taken, place)
            if told.by == "engine" and overhead_seen(gpu, use, taken) is None:
                return None
            return believable(gpu, told.more_than(then))

        grown = tuple(grown_on(*each) for each in enumerate(self.machine.gpus))
        self.lessons.remember_growth(n_ubatch, grown)
        return after_growth(actual, grown)

    def learn_speed(
        self, plan: Plan, actual: Actual, decodes: Sequence[Timed], prompts: Sequence[Timed]
    ) -> None:
        """What was timed of a plan: its model is predicted by it from now on, and the machine's
        devices with whatever model."""
        self.lessons.remember_speed(plan, actual)
        self._learn_paces(plan.chosen.settings, decodes, prompts)

    def _learn_paces(
        self, settings: Settings, decodes: Sequence[Timed], prompts: Sequence[Timed]
    ) -> None:
        """What was timed says how fast the machine is, and this model too is predicted by that
        from now on: what was learned first explains what is timed next."""
        machine = self.machine
        solvers = {
            n: self.solver.paced(replace(machine, n_threads=n)) if n else self.solver
            for n in {timed.n_threads for timed in decodes}
        }
        known = self.lessons.remember_paces(
            said_by(
                decodes,
                self.model.fingerprint,
                parts_of(machine, "decode"),
                lambda timed, without: solvers[timed.n_threads].decode_seconds(
                    settings, timed.mean_depth, without
                ),
            ),
            said_by(
                prompts,
                self.model.fingerprint,
                parts_of(machine, "prompt"),
                lambda timed, without: self.solver.prompt_seconds(
                    settings, timed.n_tokens, timed.mean_depth, without
                ),
            ),
        )
        if known:
            self._pace(paced(machine, *known))

    def predicted_tps(self, settings: Settings, kind: str, timed: Timed) -> float:
        """Tokens/s of what was timed, "prompt" or "decode", as it is predicted."""
        known = self.solver.speed.calibration
        if kind == "decode":
            return (known.decode or 1.0) / self.solver.decode_seconds(settings, timed.mean_depth)
        seconds = self.solver.prompt_seconds(settings, timed.n_tokens, timed.mean_depth)
        return (known.prompt or 1.0) / max(1e-9, seconds)

    # ------------------------------------------------------------ what is remembered

    def _warned(self, plan: Plan) -> Plan:
        """With what the user should hear of the files, once."""
        return replace(
            plan, warnings=tuple(dict.fromkeys((*plan.warnings, *self.lessons.warnings)))
        )

    def _remembered(self, fresh: Plan) -> Plan:
        """The user's own choice, or the profile's in place of a fresh one that is hardly better,
        or why not."""
        profile, explored = self.lessons.profile, self.lessons.explored
        if self.request.settings is not None:
            plan = self._exactly(fresh, self.request.settings)
            return _because(plan, EXPLORED) if self.request.settings == explored else plan
        if explored is not None and not self.wishes.stated:
            what = "What was chosen in the fit explorer"
            there = self._settled_for(explored)
            again = self._again(explored, what) if there else _for_others(what)
            if isinstance(again, str):
                self._settle_on(fresh.machine)
                return _because(fresh, again)
            return _because(self._given(fresh, again), EXPLORED)
        if profile is None or profile.settings is None or profile.settings == explored:
            return fresh
        if not fresh.chosen.fits:
            return fresh
        day = one_line(profile.saved_at[:10])
        saved_on = f"What was saved on {day}"
        if not self.lessons.comparable:
            return _because(fresh, f"{saved_on} {_other_engine(profile, self.machine)}")
        settings = replace(profile.settings, use_extra_bufts=self.wishes.use_extra_bufts)
        if settings == fresh.chosen.settings or not self.lessons.for_these_wishes:
            return fresh
        saved = self._again(settings, saved_on)
        if isinstance(saved, str):
            return _because(fresh, saved)
        if fresh.chosen.score - saved.score > math.log(WORTH_CHANGING):
            why = (
                f"{saved_on} ({tps_text(saved.speed.decode_tps)} tokens/s, "
                f"{settings.n_ctx:,} tokens of context) is no longer the best: planned again."
            )
            return _because(fresh, why)
        why = f"These settings worked on {day} and still fit: they are kept as saved."
        return _because(with_choice(fresh, saved, self.solver), why)

    def _exactly(self, fresh: Plan, settings: Settings) -> Plan:
        """The plan with these settings, whether they fit or not, and nothing to fall back on.
        Raises NoFitError where they are for other GPUs."""
        if not self._settled_for(settings):
            raise NoFitError("What was chosen is for other GPUs than there are now.")
        settings = replace(settings, use_extra_bufts=self.wishes.use_extra_bufts)
        weighed = self.solver.weighed(settings, self.solver.objective(self.wishes))
        plan = self._given(fresh, weighed)
        plan = plan.offering(alternatives=(), fallbacks=(), one_more_gib=None)
        return replace(plan, wishes=Wishes.of_settings(settings))

    def _given(self, fresh: Plan, chosen: Candidate) -> Plan:
        """The plan with what the user chose, of which nothing is to be explained."""
        given = replace(fresh, wishes=Wishes.of_settings(chosen.settings))
        there = moved_to if self.machine != fresh.machine else with_choice
        return replace(there(given, chosen, self.solver), wishes=fresh.wishes)

    def _again(self, settings: Settings, what: str) -> Candidate | str:
        """Settings of an earlier launch as they are now, if they can be had; else why not, in a
        sentence about `what`."""
        if not self._suits(settings):
            return _for_others(what)
        refused = constraints.refusal(self.model, settings, self.machine)
        if refused:
            return f"{what} cannot be used here now: planned again. {refused}"
        settings = replace(settings, use_extra_bufts=self.wishes.use_extra_bufts)
        exact = self.solver.weighed(settings, self.solver.objective(self.wishes))
        return (
            exact
            if exact.fits
            else f"{what} no longer fits the memory that is free: planned again."
        )

    def _settled_for(self, settings: Settings) -> bool:
        """Settles on the GPUs that settings are for, which may be others than the plan's: those
        that they name, or all. False: they are for none that are here."""
        there = {gpu.id for gpu in self._measured.gpus}
        if isinstance(settings, OnGpus) and not there.issuperset(settings.gpus):
            return False
        if isinstance(settings, OnGpus) or not self._suits(settings):
            self._settle_on(with_only(self._measured, settings))
        return self._suits(settings)

    def _suits(self, settings: Settings, machine: Machine | None = None) -> bool:
        """Whether these settings were made for as many GPUs as there are."""
        n = len((machine or self.machine).gpus)
        if settings.n_gpu_layers and not n:
            return False
        return len(settings.tensor_split) == (n if n > 1 else 0)

    def _new_solver(self) -> Solver:
        return self._solver_on(self.machine)

    def _solver_on(self, machine: Machine) -> Solver:
        """A solver with all that was measured of this model here."""
        solver = Solver(self.model, machine)
        losses = self.lessons.losses
        return self._calibrated(solver.with_losses(losses) if losses else solver)

    def _calibrated(self, solver: Solver) -> Solver:
        """The solver scaled by measured over predicted speed of the last load of this model."""
        profile = self.lessons.profile
        if profile is None or profile.settings is None or not profile.decode_tps:
            return solver
        if not self.lessons.comparable:
            return solver
        settings, machine = profile.settings, _as_loaded(solver.machine, profile)
        on_gpu = settings.n_gpu_layers > 0
        if not self._suits(settings, machine) or on_gpu != bool(machine.gpus):
            return solver
        then, prompt = solver if machine == solver.machine else solver.on(machine), None
        decode = profile.decode_tps * then.decode_seconds(settings, profile.decode_depth)
        if profile.prompt_tps:
            n_ubatch, depth = settings.n_ubatch, profile.prompt_depth
            prompt = profile.prompt_tps * then.prompt_seconds(settings, n_ubatch, depth)
        return solver.calibrated(Calibration(decode, prompt))


def _as_loaded(machine: Machine, profile: Profile) -> Machine:
    """The machine without the GPUs that were left out of what the profile measured, unless those
    were all: how fast the host is says nothing of a GPU."""
    used = {use.device for use in profile.predicted}
    left_out = [gpu for gpu in machine.gpus if gpu.id not in used]
    return without(machine, left_out) if used and len(left_out) < len(machine.gpus) else machine


def _facts(profiles: Profiles | None) -> MachineFacts:
    """What is known of this machine. How fast its RAM is, is measured the first time and kept."""
    if profiles is None:
        return MachineFacts()
    facts = profiles.machine_facts()
    if facts.host_bandwidth is None:
        found = measure.host_bandwidth()
        if found is not None:
            profiles.learn(lambda known: replace(known, host_bandwidth=found))
            facts = replace(facts, host_bandwidth=found)
    return facts


def _machine(request: LaunchRequest, facts: MachineFacts, model: Model) -> Machine:
    """This machine, or the one that the request states, and the engine that is installed."""
    engine = installed_engine_version()
    if request.stated:
        machine = stated(
            request.gpus,
            request.ram,
            request.reserve,
            ram_bandwidth=request.ram_bandwidth,
            cores=request.cores,
        )
    else:
        machine = measure.measure(
            reserve=request.reserve,
            beside=known_beside(facts, engine, model),
            host_bandwidth=facts.host_bandwidth,
            rpc_servers=request.rpc_servers,
            ask=partial(ask_engine, weights=_usual_type(model)),
        )
    threads = request.threads or facts.faster_threads.get(str(machine.physical_cores), 0)
    machine = replace(machine, engine_version=engine, n_threads=threads)
    if request.stated:
        return machine
    machine = within_what_worked(machine, known_shortfalls(facts, engine))
    return paced(machine, *known_paces(facts, engine))


def _usual_type(model: Model) -> int:
    """The `ggml_type` that most bytes of the layers are in."""
    sizes: dict[int, int] = {}
    for layer in model.tensors.layers:
        for tensor in (*layer.others, *layer.experts):
            sizes[tensor.ggml_type] = sizes.get(tensor.ggml_type, 0) + tensor.n_bytes
    return max(sizes, key=lambda type_: sizes[type_], default=USUAL_WEIGHTS)


def _because(plan: Plan, why: str) -> Plan:
    return replace(plan, reasons=(*plan.reasons, why))


def _for_others(what: str) -> str:
    return f"{what} was for other GPUs: planned again."


def _other_engine(profile: Profile, machine: Machine) -> str:
    """The profile comes from a file: its words may be anything."""
    theirs = one_line(profile.engine_version)[:40] or "of a version not written down"
    return (
        f"is of another engine (llama-cpp-python {theirs}, now "
        f"{machine.engine_version or ENGINE_VERSION}): planned again, its speed is not counted on."
    )
