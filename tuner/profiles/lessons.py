"""What loads teach about one model on one machine, kept for the next plan."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tuner.engine_version import same_engine
from tuner.machine.machine import Machine
from tuner.machine.usable import Beside, beside_key
from tuner.memory.cache_losses import CacheLosses
from tuner.memory.footprint import Buffer
from tuner.model.model import Model
from tuner.planning import Plan
from tuner.planning.rates import SPEED_FORMULA
from tuner.profiles.actual import Actual, actual_of, differences
from tuner.profiles.beside import (
    Grown,
    beside_with,
    grown_by,
    growths_with,
    overhead_seen,
    overheads_with,
)
from tuner.profiles.paces import DeviceSaid, Sayings, all_heard
from tuner.profiles.profiles import MachineFacts, Profile, Profiles
from tuner.profiles.shortfalls import Shortfalls, after_a_load
from tuner.safe_text import one_line
from tuner.sampling import SamplingChoice, remembered
from tuner.settings import OnGpus, Settings, on_gpus
from tuner.wishes import Wishes


class Lessons:
    """The profile of one model on one machine, and what is written to it. Without `profiles`
    nothing is known and nothing kept."""

    def __init__(
        self,
        profiles: Profiles | None,
        model: Model,
        machine: Machine,
        wishes: Wishes,
        think: str = "",
        sampling: Mapping[str, Any] | None = None,
        keeps_flags: bool = True,
        settings: Settings | None = None,
        keeps_settings: bool | None = None,
    ) -> None:
        """`think`: the level of thinking that was asked for, if one was. `sampling`: what flags
        state of it. `keeps_flags`: whether these two go into the profile. `settings`: those of
        `LaunchRequest`."""
        self._profiles, self._model, self.machine = profiles, model, machine
        self._wishes = wishes_json(wishes)
        self._think = think
        self._keeps_flags = keeps_flags
        self._failed: dict[int, int] = {}  # by place of a device: what ran out of memory there
        self._writing = threading.Lock()  # an answer and the screen may both have something to keep
        self.profile = profiles.load(model.fingerprint) if profiles else None
        self.explored: Settings | None = None
        if self.profile and self.profile.explored:
            self.explored = on_gpus(self.profile.explored, self.profile.explored_gpus)
        if keeps_settings is not None:
            self.explored = settings if keeps_settings else None
        known = remembered(self.profile.sampling) if self.profile else {}
        self.sampling = SamplingChoice(sampling or {}, known, model.sampling)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should hear of the files."""
        return tuple(self._profiles.warnings) if self._profiles else ()

    @property
    def think(self) -> str:
        """The level of thinking that is asked for now, or was the last time; "" for none."""
        return self._think or (self.profile.think if self.profile else "")

    @property
    def comparable(self) -> bool:
        """Whether the profile was made by the engine that this machine has: another's speeds,
        sizes and settings say nothing sure of this one's."""
        profile, engine = self.profile, self.machine.engine_version
        return profile is not None and same_engine(profile.engine_version, engine)

    @property
    def for_these_wishes(self) -> bool:
        """Whether the profile's settings were made for what is wished now."""
        return self.profile is not None and dict(self.profile.wishes) == self._wishes

    def learn(
        self,
        plan: Plan,
        buffers: Sequence[Buffer],
        use_extra_bufts: bool,
        taken: tuple[int | None, ...],
        died_by: str = "",
        *,
        keep: bool = True,
    ) -> Actual:
        """What the load of `plan.chosen` took: the engine's buffers, and all bytes of each GPU
        where they are known. `use_extra_bufts`: whether the engine could run with them, `died_by`:
        the signal that says that it could not. `keep`: the profile has this plan from now on."""
        actual = actual_of(plan, buffers, use_extra_bufts, taken)
        failed, self._failed = self._failed, {}
        if self._profiles:
            machine, totals = self.machine, plan.chosen.footprint.totals
            known = known_shortfalls(self._profiles.machine_facts(), machine.engine_version)
            shortfalls = after_a_load(known, machine, totals, failed)
            if shortfalls != known:
                self._profiles.learn(
                    lambda facts: replace(
                        _learned(facts, machine.engine_version), shortfalls=shortfalls
                    )
                )
            overheads = _overheads(self.machine, actual)
            died = plan.chosen.settings.use_extra_bufts and not use_extra_bufts
            if overheads or died:
                engine = self.machine.engine_version
                fault = (died_by or "a signal") if died else ""
                self._profiles.learn(
                    lambda facts: _with_overheads(_learned(facts, engine, fault), overheads)
                )
            if keep:
                self._save(self._profiles, plan, actual, tuple(buffers))
        return actual

    def remember_growth(self, n_ubatch: int, grown: Sequence[int | None]) -> None:
        """Keeps by how much each GPU's memory grew with a long prompt."""
        if not self._profiles:
            return
        engine, new = self.machine.engine_version, {}
        for gpu, size in zip(self.machine.gpus, grown, strict=True):
            if size is not None:
                new[beside_key(gpu)] = grown_by(self._model, n_ubatch, size)
        if new:
            self._profiles.learn(lambda facts: _with_growths(_learned(facts, engine), new))

    def ran_out(self, place: int, total: int) -> None:
        """A load that took so many bytes of the device at this place ran out of memory there; what
        that teaches is kept once something smaller is loaded in its place."""
        self._failed[place] = min(total, self._failed.get(place, total))

    def remember_speed(self, plan: Plan, actual: Actual) -> None:
        """Keeps measured tokens/s in the profile of this load."""
        if self.profile and self.profile.settings == plan.chosen.settings:
            names = ("decode_tps", "prompt_tps", "decode_depth", "prompt_depth")
            self._change(**{name: getattr(actual, name) for name in names})

    def remember_paces(
        self, decode: Sequence[DeviceSaid], prompt: Sequence[DeviceSaid]
    ) -> tuple[Sayings, Sayings] | None:
        """Keeps what was seen of the machine's devices for all its models. Returns what is known
        of them now, or None where nothing is kept."""
        if not (self._profiles and (decode or prompt)):
            return None
        engine = self.machine.engine_version
        self._profiles.learn(lambda facts: _with_paces(facts, engine, decode, prompt))
        return known_paces(self._profiles.machine_facts(), engine)

    def remember_threads(self, physical_cores: int, n_threads: int) -> None:
        """Keeps which number of threads was the faster on so many cores."""
        if self._profiles:
            cores = str(physical_cores)
            self._profiles.learn(
                lambda facts: replace(
                    facts, faster_threads={**facts.faster_threads, cores: n_threads}
                )
            )

    @property
    def losses(self) -> CacheLosses | None:
        """What cache types cost, if it was measured on this model with the engine that is here."""
        losses = self.profile.losses if self.profile else None
        if losses is None or not same_engine(losses.engine_version, self.machine.engine_version):
            return None
        return losses

    def remember_losses(self, measured: CacheLosses) -> CacheLosses:
        """Keeps what was measured now, with what else is known by the same text. Returns that."""
        losses = replace(measured, engine_version=self.machine.engine_version or "")
        losses = losses.with_others_of(self.losses)
        with self._writing:
            if self._profiles:
                path = str(self._model.path.resolve())
                empty = Profile(self._model.fingerprint, self._model.name, path)
                self.profile = replace(self.profile or empty, losses=losses)
                self._profiles.save(self.profile)
        return losses

    def remember_think(self, level: str) -> None:
        """Keeps the level of thinking that was chosen in the profile, if there is one."""
        self._change(think=level)

    def _change(self, **values: Any) -> None:
        """Writes the profile with other values of some fields."""
        with self._writing:
            if self._profiles and self.profile:
                self.profile = replace(self.profile, **values, saved_at="")
                self._profiles.save(self.profile)

    def _save(
        self, profiles: Profiles, plan: Plan, actual: Actual, buffers: tuple[Buffer, ...]
    ) -> None:
        chosen, old = plan.chosen, self.profile if self.comparable else None
        think, sampling = self.think, self.sampling.kept
        if not self._keeps_flags:
            think = self.profile.think if self.profile else ""
            sampling = dict(self.sampling.profile)
        same = old if old and old.settings == chosen.settings else None
        taken = zip(self.machine.gpus, actual.taken, strict=True)
        self.profile = Profile(
            fingerprint=self._model.fingerprint,
            model_name=self._model.name,
            model_path=str(self._model.path.resolve()),
            settings=chosen.settings,
            wishes=self._wishes,
            predicted=chosen.footprint.uses,
            predicted_decode_tps=chosen.speed.decode_tps,
            predicted_prompt_tps=chosen.speed.prompt_tps,
            buffers=buffers,
            gpu_taken={gpu.id: size for gpu, size in taken if size is not None},
            off_by=differences(actual.expected, actual.footprint),
            decode_tps=same.decode_tps if same else None,
            prompt_tps=same.prompt_tps if same else None,
            engine_version=self.machine.engine_version or "",
            think=think,
            sampling=sampling,
            explored=self.explored and on_gpus(self.explored, None),
            explored_gpus=self.explored.gpus if isinstance(self.explored, OnGpus) else None,
            losses=self.profile.losses if self.profile else None,
        )
        profiles.save(self.profile)


def wishes_json(wishes: Wishes) -> dict[str, Any]:
    """The wishes as a profile keeps them: what the user fixed, and what matters most."""
    kept = {name: getattr(wishes, name) for name in (*wishes.fixed, "prefer")}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in kept.items()}


def known_beside(
    facts: MachineFacts, engine_version: str | None, model: Model
) -> dict[str, Beside]:
    """What loads of this very engine tell of what the model takes of each GPU beside its buffers,
    by `beside_key`: another's kernels take other memory of the driver."""
    if not same_engine(facts.engine_version, engine_version):
        return {}
    return beside_with(facts.overheads, facts.growths, model)


def known_shortfalls(facts: MachineFacts, engine_version: str | None) -> Shortfalls:
    """What loads of this very engine could not have of memory that was free."""
    return facts.shortfalls if same_engine(facts.engine_version, engine_version) else {}


def runs_extra_bufts(facts: MachineFacts, engine_version: str | None) -> bool:
    """Whether repacked weights are to be tried: a death of them is one of that engine's alone."""
    another = bool(facts.engine_version) and not same_engine(facts.engine_version, engine_version)
    return facts.use_extra_bufts or another


def without_repacking_text(facts: MachineFacts) -> str:
    """Why CPU weights are not repacked, and what undoes that."""
    how = f" ({one_line(facts.extra_bufts_died_by)[:20]})" if facts.extra_bufts_died_by else ""
    return (
        f"CPU weights are not repacked, which is slower: this engine died of that here{how}. "
        "kvchat --forget-machine lets it be tried again."
    )


def known_paces(facts: MachineFacts, engine_version: str | None) -> tuple[Sayings, Sayings]:
    """What is known of the devices' paces at decoding and at prompts: by this very engine, and
    beside the formula that they are to scale."""
    same = same_engine(facts.engine_version, engine_version)
    if not same or facts.speed_formula != SPEED_FORMULA:
        return {}, {}
    return facts.decode_paces, facts.prompt_paces


def _with_paces(
    facts: MachineFacts,
    engine_version: str | None,
    decode: Sequence[DeviceSaid],
    prompt: Sequence[DeviceSaid],
) -> MachineFacts:
    known_decode, known_prompt = known_paces(facts, engine_version)
    return replace(
        _learned(facts, engine_version),
        decode_paces=all_heard(known_decode, decode),
        prompt_paces=all_heard(known_prompt, prompt),
        speed_formula=SPEED_FORMULA,
    )


def _overheads(machine: Machine, actual: Actual) -> dict[str, int]:
    """What each GPU gave beyond the engine's buffers: the driver's own, by `beside_key`."""
    found = {}
    uses = actual.footprint.uses
    for gpu, use, taken in zip(machine.gpus, uses, actual.taken, strict=False):
        beyond = overhead_seen(gpu, use, taken)
        if beyond is not None:
            found[beside_key(gpu)] = beyond
    return found


def _with_overheads(facts: MachineFacts, new: Mapping[str, int]) -> MachineFacts:
    return replace(facts, overheads=overheads_with(facts.overheads, new))


def _with_growths(facts: MachineFacts, new: Mapping[str, Grown]) -> MachineFacts:
    return replace(facts, growths=growths_with(facts.growths, new))


def _learned(facts: MachineFacts, engine_version: str | None, fault: str = "") -> MachineFacts:
    """The facts with what holds for this engine alone, and its `fault`."""
    works = runs_extra_bufts(facts, engine_version)
    same = same_engine(facts.engine_version, engine_version)
    return replace(
        facts,
        shortfalls=known_shortfalls(facts, engine_version),
        decode_paces=facts.decode_paces if same else {},
        prompt_paces=facts.prompt_paces if same else {},
        overheads=facts.overheads if same else {},
        growths=facts.growths if same else {},
        engine_version=engine_version or "",
        use_extra_bufts=works and not fault,
        extra_bufts_died_by=fault or ("" if works else facts.extra_bufts_died_by),
    )
