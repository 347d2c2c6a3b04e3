"""Situations that people have, what an expert takes there, and what kvchat takes.

    python -m bench.situations FOLDER [--first]

FOLDER holds GGUF files, sparse ones or bare headers stretched to full size, named as in the table.
For each row: the machine, the model, the expert's choice, kvchat's with its tokens/s at two depths,
its prompts and its turn, and a verdict. `--first` judges what the first solver took, which weighed
decoding alone and is in the table too: a third and more of its choices are worse, so the rule can
fail. The exit status is 1 if one is.

The verdict. A choice inside all of the expert's ranges is *ok*. Any other is held against every
plan inside them that fits, by the same footprints and speeds, both at the same depth. It is *worse*
where one of these has it so:

- turns: they are over 5 % shorter, with no less context;
- context: the choice has less than the expert would ever take, and what he takes costs less than
  25 % longer turns; or it has more, for which turns are over 25 % longer;
- prompts: the choice reads them at less than three quarters of the speed, for decoding that is not
  10 % faster;
- cache: its type is below q8_0, which none of the expert's is, for turns that are not 10 % shorter.

Else it is *other*: not what the expert takes, and no worse. None of these thresholds is one of the
solver's own prices.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuner.gguf.header import read_header
from tuner.machine.machine import Machine
from tuner.machine.stated import stated
from tuner.machine.stated_gpus import parse_gpus
from tuner.memory.cache_types import HIGH_PRECISION
from tuner.model.model import Model, describe
from tuner.planning import Candidate, Solver, make_plan
from tuner.planning.objective import FULL_UBATCH
from tuner.planning.plan import Speed
from tuner.planning.solver import UBATCHES
from tuner.planning.speed import CHAT_DEPTH, QUOTED_DEPTH
from tuner.settings import ALL_LAYERS
from tuner.units import GIB
from tuner.wishes import Wishes

SHORTER_TURNS = 1.05
TURNS_FOR_CONTEXT = 1.25
PROMPTS = 0.75
DECODING_FOR_PROMPTS = 1.10
TURNS_FOR_CACHE = 1.10

K = 1024  # tokens
Range = tuple[int, int]  # both ends included


@dataclass(frozen=True, slots=True)
class Taken:
    """Settings as people tell of them: the same type for K and V; None: all layers."""

    n_ctx: int
    cache: str = "q8_0"
    layers: int | None = None
    n_cpu_moe: int = 0
    n_ubatch: int = FULL_UBATCH

    @property
    def wishes(self) -> Wishes:
        """The settings, fixed; the split over several GPUs is left open."""
        layers = ALL_LAYERS if self.layers is None else self.layers
        return Wishes(
            n_ctx=self.n_ctx, type_k=self.cache, type_v=self.cache, n_gpu_layers=layers,
            n_cpu_moe=self.n_cpu_moe, n_ubatch=self.n_ubatch,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expert:
    """What people who know take, and where they say so or get (tokens/s). None: of layers all, of
    n_ubatch the default, but another is as welcome."""

    n_ctx: Range
    cache: tuple[str, ...]
    evidence: str
    layers: Range | None = None
    n_cpu_moe: Range = (0, 0)
    n_ubatch: Range | None = None

    def all(self) -> Iterator[Taken]:
        """Everything in the ranges, of contexts the ends."""
        layers = range(self.layers[0], self.layers[1] + 1) if self.layers else (None,)
        ubatches = [n for n in UBATCHES if within(n, self.n_ubatch or (FULL_UBATCH, FULL_UBATCH))]
        experts = range(self.n_cpu_moe[0], self.n_cpu_moe[1] + 1)
        axes = (sorted(set(self.n_ctx)), self.cache, layers, experts, ubatches)
        return itertools.starmap(Taken, itertools.product(*axes))

    def outside(self, c: Candidate, model: Model) -> tuple[str, ...]:
        """Of a plan what is outside these ranges."""
        s = c.settings
        everything = (model.n_items, model.n_items)
        asked = {
            f"{s.n_ctx:,} tokens": within(s.n_ctx, self.n_ctx),
            f"a cache of {s.type_k}/{s.type_v}": {s.type_k, s.type_v} <= set(self.cache),
            f"{s.n_gpu_layers} layers": within(s.n_gpu_layers, self.layers or everything),
            f"ncmoe {s.n_cpu_moe}": within(s.n_cpu_moe, self.n_cpu_moe),
            f"ub {s.n_ubatch}": self.n_ubatch is None or within(s.n_ubatch, self.n_ubatch),
        }
        return tuple(text for text, inside in asked.items() if not inside)

    def __str__(self) -> str:
        """In one line of the table."""
        layers = f", {_span(self.layers)} layers" if self.layers else ", all layers"
        experts = f", ncmoe {_span(self.n_cpu_moe)}" if self.n_cpu_moe[1] else ""
        batch = f", ub {_span(self.n_ubatch)}" if self.n_ubatch else ""
        ctx = _span((self.n_ctx[0] // K, self.n_ctx[1] // K))
        return f"{ctx}k {' or '.join(self.cache)}{layers}{experts}{batch} ({self.evidence})"


@dataclass(frozen=True, slots=True)
class Situation:
    """One row: a machine as flags would state it, a model, the expert's choice, that of the
    first solver."""

    number: int
    gpu: str  # --gpu
    ram: int  # GiB; 0: the GPU brings it along
    model: str  # the file's name without .gguf
    expert: Expert
    first: Taken
    ram_bandwidth: float = 89.6  # GB/s
    cores: int = 8
    n_ctx: int | None = None  # --ctx

    @property
    def machine(self) -> Machine:
        """As `--gpu`, `--ram`, `--ram-bandwidth` and `--cores` would state it."""
        given = self.ram > 0
        return stated(
            parse_gpus([self.gpu]),
            self.ram * GIB if given else None,
            ram_bandwidth=self.ram_bandwidth * 1e9 if given else None,
            cores=self.cores,
        )


_LAPTOP = "RTX 4060 Laptop"
_MAC = "M2 Max:96GiB"
_EXPERTS_30B = Expert((16 * K, 40 * K), ("q8_0", "f16"), "llmfit 755", n_cpu_moe=(30, 36),
                      n_ubatch=(2048, 2048))  # fmt: skip
_GPT_OSS_120B = Expert((32 * K, 128 * K), ("q8_0", "f16"), "ai-maestro", n_cpu_moe=(24, 26),
                       n_ubatch=(2048, 4096))  # fmt: skip
# fmt: off
SITUATIONS = (
    Situation(1, _LAPTOP, 32, "gemma-3-12b-Q4_K_M",
              Expert((8 * K, 16 * K), ("q8_0",), "llmfit 774", layers=(43, 46)),
              Taken(5120, layers=48, n_ubatch=256)),
    Situation(2, _LAPTOP, 32, "Llama-3.1-8B-Q4_K_M",
              Expert((32 * K, 40 * K), ("q8_0",), "fits whole"), Taken(39_680)),
    Situation(3, _LAPTOP, 32, "Qwen3-30B-A3B-2507-Q4_K_M",
              _EXPERTS_30B, Taken(18_944, n_cpu_moe=33)),
    Situation(4, "RTX 3060", 32, "Qwen3-30B-A3B-2507-Q4_K_M",
              Expert((16 * K, 40 * K), ("q8_0", "q4_0"), "llama.cpp 25859, thecodacus 5",
                     n_cpu_moe=(20, 24), n_ubatch=(2048, 2048)),
              Taken(19_200, n_cpu_moe=21)),
    Situation(5, "RTX 4070", 32, "gpt-oss-20b-MXFP4",
              Expert((16 * K, 32 * K), ("q8_0", "f16"), "llama.cpp 15396"), Taken(24_320)),
    Situation(6, "RTX 4070", 32, "Qwen3-14B-Q4_K_M",
              Expert((32 * K, 40 * K), ("q8_0",), "fits whole, as f16 16k does"), Taken(36_096)),
    Situation(7, "RTX 3060", 32, "Mistral-Small-24B-Q4_K_M",
              Expert((8 * K, 8 * K), ("q8_0", "f16"), "ollama 8914", layers=(31, 33)),
              Taken(17_664, layers=31)),
    Situation(8, "RTX 4060 Ti:16GiB", 32, "Mistral-Small-24B-Q4_K_M",
              Expert((20 * K, 32 * K), ("q8_0",), "fits whole"), Taken(23_040)),
    Situation(9, "RTX 5060 Ti:16GiB", 32, "gemma-3-27b-Q4_K_M",
              Expert((8 * K, 16 * K), ("q8_0",), "or IQ4_XS whole", layers=(57, 60)),
              Taken(17_152, layers=57)),
    Situation(10, "RTX 5080", 32, "gpt-oss-20b-MXFP4",
              Expert((128 * K, 128 * K), ("f16",), "fits whole"), Taken(131_072, "f16")),
    Situation(11, "RTX 3090", 64, "Qwen3-32B-Q4_K_M",
              Expert((32 * K, 32 * K), ("q8_0",), "fits whole"), Taken(32_768), n_ctx=32_768),
    Situation(12, "RTX 3090", 64, "gemma-3-27b-Q4_K_M",
              Expert((64 * K, 90 * K), ("f16",), "windows are cheap"), Taken(131_072)),
    Situation(13, "RTX 3090", 64, "Qwen3-32B-Q4_K_M",
              Expert((32 * K, 40 * K), ("q8_0",), "fits whole; f16 20k"), Taken(37_632)),
    Situation(14, "RTX 4090", 64, "Llama-3.3-70B-Q4_K_M",
              Expert((8 * K, 16 * K), ("q8_0", "f16"), "geerlingguy 11", layers=(43, 45)),
              Taken(16_640, layers=44)),
    Situation(15, "RTX 3090", 64, "Qwen3-30B-A3B-2507-Q4_K_M",
              Expert((60 * K, 100 * K), ("f16", "q8_0"), "150-190/s"), Taken(115_712)),
    Situation(16, "RTX 3090,RTX 3060", 64, "Llama-3.3-70B-Q4_K_M",
              Expert((8 * K, 16 * K), ("q8_0",), "3-4/s", layers=(65, 68)),
              Taken(4096, layers=69)),
    Situation(17, "RTX 3090,RTX 3060", 64, "Qwen3-32B-Q4_K_M",
              Expert((32 * K, 40 * K), ("q8_0",), "without the 3060"), Taken(36_352)),
    Situation(18, "RTX 3090,RTX 3090", 64, "Llama-3.3-70B-Q4_K_M",
              Expert((32 * K, 40 * K), ("q8_0",), "16.3/s measured"), Taken(37_632)),
    Situation(19, "RTX 2060:6GiB", 32, "Qwen2.5-7B-Q4_K_M",
              Expert((16 * K, 32 * K), ("q8_0",), "fits whole"), Taken(30_976)),
    Situation(20, "RTX 3050 Ti Laptop", 16, "Llama-3.2-3B-Q4_K_M",
              Expert((8 * K, 20 * K), ("q8_0",), "fits whole"), Taken(19_456)),
    Situation(21, "none", 16, "Llama-3.1-8B-Q4_K_M",
              Expert((8 * K, 16 * K), ("f16", "q8_0"), "4-5/s", layers=(0, 0)),
              Taken(50_432, layers=0)),
    Situation(22, "none", 32, "Qwen3-30B-A3B-2507-Q4_K_M",
              Expert((32 * K, 64 * K), ("q8_0", "f16"), "caches are small", layers=(0, 0)),
              Taken(16_384, "f16", layers=0)),
    Situation(23, "RTX 3090", 128, "gpt-oss-120b-MXFP4",
              _GPT_OSS_120B, Taken(102_912, n_cpu_moe=24)),
    Situation(24, "RTX 3090", 128, "GLM-4.5-Air-Q4_K_M",
              Expert((16 * K, 32 * K), ("q8_0",), "as 23", n_cpu_moe=(34, 36),
                     n_ubatch=(2048, 4096)),
              Taken(31_232, n_cpu_moe=35)),
    Situation(25, "RTX 3090", 512, "DeepSeek-R1-671B-Q5_K_M",
              Expert((32 * K, 160 * K), ("f16", "q8_0"), "8-12/s, latent cache",
                     n_cpu_moe=(58, 61), n_ubatch=(4096, 4096)),
              Taken(16_384, "f16", n_cpu_moe=60), ram_bandwidth=307, cores=32),
    Situation(26, "RTX 3090", 64, "gpt-oss-120b-MXFP4",
              _GPT_OSS_120B, Taken(16_384, n_cpu_moe=23)),
    Situation(27, "RTX 3090", 64, "Mixtral-8x7B-Q4_K_M",
              Expert((16 * K, 32 * K), ("q8_0",), "the rest fits", n_cpu_moe=(6, 7)),
              Taken(18_688, n_cpu_moe=6)),
    Situation(28, _MAC, 0, "Llama-3.3-70B-Q4_K_M",
              Expert((64 * K, 128 * K), ("f16", "q8_0"), "7-8/s"), Taken(131_072), cores=12),
    Situation(29, _MAC, 0, "gpt-oss-120b-MXFP4",
              Expert((128 * K, 128 * K), ("f16",), "45-55/s"), Taken(131_072, "f16"), cores=12),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of a choice: "ok", "other" or "worse", and why."""

    word: str
    why: str = ""


def judge(model: Model, solver: Solver, row: Situation, chosen: Candidate) -> Verdict:
    """A choice for one situation, against all that the expert would take."""
    outside = ", ".join(row.expert.outside(chosen, model))
    if not outside:
        return Verdict("ok")
    found = (solver.best(taken.wishes.for_model(model)) for taken in row.expert.all())
    plans = sorted((plan for plan in found if plan), key=lambda plan: plan.speed.turn_seconds)
    for plan in plans:
        why = _beaten(solver, chosen, plan, row.expert)
        if why:
            return Verdict("worse", f"{outside}: {why}, with {settings_text(plan)}")
    if not plans:
        return Verdict("other", f"{outside}: nothing of the expert's fits")
    nearest = max(plans, key=lambda plan: plan.settings.n_ctx)  # of these the fastest
    mine, other = _at_one_depth(solver, chosen, nearest)
    turns = mine.turn_seconds / other.turn_seconds - 1
    return Verdict("other", f"{outside}: turns {turns:+.0%} of {settings_text(nearest)}")


def _at_one_depth(solver: Solver, *plans: Candidate) -> list[Speed]:
    """The speeds of plans at a depth that all of them reach."""
    n_ctx = min(plan.settings.n_ctx for plan in plans)
    return [solver.predict(plan.settings.with_context(n_ctx)) for plan in plans]


def _beaten(solver: Solver, chosen: Candidate, plan: Candidate, expert: Expert) -> str:
    """In what a plan of the expert's beats a choice; "" in nothing."""
    n_ctx, least, most = chosen.settings.n_ctx, *expert.n_ctx
    mine, other = _at_one_depth(solver, chosen, plan)
    turns = f"turns of {other.turn_seconds:.1f} s instead of {mine.turn_seconds:.1f}"
    longer = mine.turn_seconds / other.turn_seconds
    if longer > SHORTER_TURNS and plan.settings.n_ctx >= n_ctx:
        return turns
    if n_ctx < least and longer > 1 / TURNS_FOR_CONTEXT:
        return f"{least:,} tokens for {1 / longer - 1:+.0%} of a turn"
    if n_ctx > most and longer > TURNS_FOR_CONTEXT:
        return turns
    faster = _at_turn(mine) / _at_turn(other)
    if mine.prompt_tps < PROMPTS * other.prompt_tps and faster < DECODING_FOR_PROMPTS:
        return f"prompts at {other.prompt_tps:.0f} tokens/s instead of {mine.prompt_tps:.0f}"
    if _low(chosen) and not _low(plan) and longer > 1 / TURNS_FOR_CACHE:
        return f"a cache of {plan.settings.type_k} for {1 / longer - 1:+.0%} of a turn"
    return ""


def _low(c: Candidate) -> bool:
    return not {c.settings.type_k, c.settings.type_v} <= HIGH_PRECISION


def _at_turn(speed: Speed) -> float:
    """Tokens/s of decoding at the depth of a chat, or at the quoted one where there is no such."""
    return speed.decode_tps_at.get(CHAT_DEPTH, speed.decode_tps)


def _span(ends: Range) -> str:
    return f"{ends[0]}" if ends[0] == ends[1] else f"{ends[0]}-{ends[1]}"


def within(value: int, ends: Range) -> bool:
    """Whether a value is in a range."""
    return ends[0] <= value <= ends[1]


def take(model: Model, row: Situation, solver: Solver, *, first: bool) -> Candidate:
    """kvchat's choice for one situation, or that of the first solver."""
    if not first:
        return make_plan(model, row.machine, Wishes(n_ctx=row.n_ctx)).chosen
    wishes = row.first.wishes.for_model(model)
    return solver.best(wishes) or solver.calculate(wishes)


def settings_text(c: Candidate) -> str:
    """The settings in short."""
    s = c.settings
    experts = f" ncmoe {s.n_cpu_moe}" if s.n_cpu_moe else ""
    split = ":".join(f"{n:.0f}" for n in s.tensor_split)
    layers = split or f"{s.n_gpu_layers}"
    types = s.type_k if s.type_k == s.type_v else f"{s.type_k}/{s.type_v}"
    return f"{s.n_ctx:,} {types}, {layers} layers{experts}, ub {s.n_ubatch}"


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first", action="store_true", help="judge what the first solver took")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    for row in SITUATIONS:
        model = describe(read_header(args.folder / f"{row.model}.gguf"))
        solver = Solver(model, row.machine)
        chosen = take(model, row, solver, first=args.first)
        verdict = judge(model, solver, row, chosen)
        counts[verdict.word] += 1
        speed = chosen.speed
        where = f"{row.gpu} + {row.ram} GiB" if row.ram else row.gpu
        wish = f" --ctx {row.n_ctx}" if row.n_ctx else ""
        print(f"{row.number:2} {where}, {row.model}{wish}")
        print(f"   expert  {row.expert}")
        print(
            f"   taken   {settings_text(chosen)}: {speed.decode_tps:.1f} tokens/s at"
            f" {QUOTED_DEPTH:,}, {_at_turn(speed):.1f} at {CHAT_DEPTH:,}, prompts"
            f" {speed.prompt_tps:.0f}, a turn {speed.turn_seconds:.1f} s"
        )
        print(f"   {verdict.word:<7} {verdict.why}".rstrip(), flush=True)
    print(", ".join(f"{n} {word}" for word, n in counts.items()))
    sys.exit(1 if counts["worse"] else 0)


if __name__ == "__main__":
    main()
