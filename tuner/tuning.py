"""One model on one machine at one moment: what was asked, read, measured and remembered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

from tuner.engine.client import EngineClient
from tuner.engine.protocol import Load, Loaded
from tuner.gguf.header import read_header
from tuner.machine import measure
from tuner.machine.machine import Machine
from tuner.memory.footprint import Buffer, Footprint
from tuner.memory.reported import reported_footprint
from tuner.model.model import Model, describe
from tuner.planning.plan import Plan
from tuner.planning.planner import make_plan
from tuner.planning.solver import Solver
from tuner.planning.speed import Calibration
from tuner.planning.verify import verified
from tuner.profiles.actual import Actual, as_mapped, differences
from tuner.profiles.profiles import MachineFacts, Profile, Profiles
from tuner.settings import Settings
from tuner.units import tps_text
from tuner.wishes import LaunchRequest, Wishes

# A saved choice is kept unless a fresh one is better by more than this factor of effective speed.
WORTH_CHANGING = 1.10


class Situation:
    """Everything that a plan depends on, and where its outcome is kept."""

    def __init__(
        self,
        request: LaunchRequest,
        model: Model,
        machine: Machine,
        profiles: Profiles | None,
        facts: MachineFacts,
    ) -> None:
        self.request, self.model, self.machine = request, model, machine
        self.profiles = profiles
        wishes = replace(request.wishes, use_extra_bufts=facts.use_extra_bufts)
        self.wishes = wishes.for_model(model)
        self.profile = profiles.load(model.fingerprint) if profiles else None
        self.solver = self._calibrated(Solver(model, machine))
        self.threads = request.threads or machine.physical_cores

    @classmethod
    def of(cls, request: LaunchRequest) -> Situation:
        """Reads the file and measures the machine. Raises FileError."""
        model = describe(read_header(request.path))
        profiles = Profiles() if request.use_profile and not request.stated else None
        facts = profiles.machine_facts() if profiles else MachineFacts()
        if request.stated:
            measured = None
            if not request.vram:
                measured = measure.measure(reserve=request.reserve)
            machine = measure.stated(request.vram, request.ram, request.reserve, measured=measured)
        else:
            machine = measure.measure(
                reserve=request.reserve,
                overheads=facts.gpu_overhead,
                host_bandwidth=facts.host_bandwidth,
                rpc_servers=request.rpc_servers,
            )
        return cls(request, model, machine, profiles, facts)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The engine's names of the GPUs that are not to be used."""
        return tuple(gpu.engine_name for gpu in self.machine.left_out if gpu.engine_name)

    # ------------------------------------------------------------ planning

    def plan(self) -> Plan:
        """The plan, or what worked before where that is still as good. Raises UsageError."""
        fresh = make_plan(self.model, self.machine, self.wishes, solver=self.solver)
        plan = self._remembered(fresh)
        if self.profiles and self.profiles.warnings:
            plan = replace(plan, warnings=(*plan.warnings, *self.profiles.warnings))
        return plan

    def verify(self, plan: Plan, client: EngineClient) -> Plan:
        """The plan as the engine confirms it. Raises EngineError."""

        def dry_run(settings: Settings) -> Sequence[Buffer]:
            r = self.request
            load = Load(str(r.path), settings, self.threads, r.rpc_servers, self.left_out)
            return client.dry_run(load).buffers

        return verified(plan, dry_run, self.solver)

    def _remembered(self, fresh: Plan) -> Plan:
        """The profile's choice in place of a fresh one that is hardly better."""
        profile = self.profile
        if profile is None or dict(profile.wishes) != wishes_json(self.wishes):
            return fresh
        settings = replace(profile.settings, use_extra_bufts=self.wishes.use_extra_bufts)
        if not fresh.chosen.fits or settings == fresh.chosen.settings:
            return fresh
        solver = self.solver
        saved = solver.exactly(solver.weigh(settings, solver.objective(self.wishes)))
        day = profile.saved_at[:10]
        if not self._suits(settings):
            why = f"What was saved on {day} was for other GPUs: planned again."
        elif not saved.fits:
            why = f"What was saved on {day} no longer fits the memory that is free: planned again."
        elif fresh.chosen.score - saved.score > math.log(WORTH_CHANGING):
            why = (
                f"What was saved on {day} ({tps_text(saved.speed.decode_tps)} tokens/s, "
                f"{saved.settings.n_ctx:,} tokens of context) is no longer the best: planned again."
            )
        else:
            why = f"These settings worked on {day} and still fit: they are kept as saved."
            return replace(fresh, chosen=saved, reasons=(*fresh.reasons, why))
        return replace(fresh, reasons=(*fresh.reasons, why))

    def _suits(self, settings: Settings) -> bool:
        """Whether these settings were made for as many GPUs as there are."""
        n = len(self.machine.gpus)
        if settings.n_gpu_layers and not n:
            return False
        return len(settings.tensor_split) == (n if n > 1 else 0)

    def _calibrated(self, solver: Solver) -> Solver:
        """The solver scaled by measured over predicted speed of the last load of this model."""
        profile = self.profile
        if profile is None or not profile.decode_tps:
            return solver
        on_gpu = profile.settings.n_gpu_layers > 0
        if not self._suits(profile.settings) or on_gpu != bool(self.machine.gpus):
            return solver
        speed = solver.predict(profile.settings)
        prompt = profile.prompt_tps / speed.prompt_tps if profile.prompt_tps else None
        return solver.calibrated(Calibration(profile.decode_tps / speed.decode_tps, prompt))

    # ------------------------------------------------------------ learning

    def learn(self, plan: Plan, loaded: Loaded, before: Mapping[str, int]) -> Actual:
        """What a load took, kept in the profile; `before` is NVML's reading ahead of it."""
        machine, predicted = self.machine, plan.chosen.footprint
        after = measure.gpu_used_bytes(machine)
        growth = tuple(
            after[g.id] - before[g.id] if g.id in after and g.id in before else None
            for g in machine.gpus
        )
        real = reported_footprint(loaded.buffers, machine, predicted, "measured")
        settings = replace(plan.chosen.settings, use_extra_bufts=loaded.use_extra_bufts)
        expected = as_mapped(predicted, loaded.buffers, settings, self.model, len(machine.gpus))
        actual = Actual(real, expected, vram_growth=growth)
        if self.profiles:
            overheads = _overheads(machine, real, growth)
            died = plan.chosen.settings.use_extra_bufts and not loaded.use_extra_bufts
            if overheads or died:
                self.profiles.learn(lambda facts: _learned(facts, overheads, died))
            self._save(plan, actual, loaded)
        return actual

    def remember_speed(self, plan: Plan, actual: Actual) -> None:
        """Keeps measured tokens/s in the profile of this load."""
        profile = self.profile
        if self.profiles and profile and profile.settings == plan.chosen.settings:
            self.profile = replace(
                profile, decode_tps=actual.decode_tps, prompt_tps=actual.prompt_tps, saved_at=""
            )
            self.profiles.save(self.profile)

    def _save(self, plan: Plan, actual: Actual, loaded: Loaded) -> None:
        assert self.profiles is not None
        c, old = plan.chosen, self.profile
        same = old is not None and old.settings == c.settings
        taken = {
            g.id: grown
            for g, grown in zip(self.machine.gpus, actual.vram_growth, strict=True)
            if grown is not None
        }
        self.profile = Profile(
            fingerprint=self.model.fingerprint,
            model_name=self.model.name,
            model_path=str(self.model.path.resolve()),
            settings=c.settings,
            wishes=wishes_json(self.wishes),
            predicted=c.footprint.uses,
            predicted_decode_tps=c.speed.decode_tps,
            predicted_prompt_tps=c.speed.prompt_tps,
            buffers=loaded.buffers,
            gpu_taken=taken,
            off_by=differences(actual.expected, actual.footprint),
            decode_tps=old.decode_tps if same and old else None,
            prompt_tps=old.prompt_tps if same and old else None,
            engine_version=version("llama-cpp-python"),
        )
        self.profiles.save(self.profile)


def wishes_json(wishes: Wishes) -> dict[str, Any]:
    """The wishes as a profile keeps them: only what the user fixed."""
    fixed = {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in asdict(wishes).items()
        if v is not None and k not in ("max_ctx", "use_extra_bufts")
    }
    return fixed


def _overheads(machine: Machine, real: Footprint, growth: tuple[int | None, ...]) -> dict[str, int]:
    """What each GPU gave beyond the engine's buffers: the driver's own, by `device_key`."""
    found = {}
    for gpu, use, grown in zip(machine.gpus, real.uses, growth, strict=False):
        beyond = None if grown is None else grown - (use.total - use.overhead)
        if beyond is not None and 0 <= beyond < gpu.total // 4:
            found[measure.device_key(gpu)] = beyond
    return found


def _learned(facts: MachineFacts, overheads: Mapping[str, int], died: bool) -> MachineFacts:
    return replace(
        facts,
        gpu_overhead={**facts.gpu_overhead, **overheads},
        use_extra_bufts=facts.use_extra_bufts and not died,
    )
