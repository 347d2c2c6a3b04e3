"""Advice as sentences: what would help beside other settings."""

from __future__ import annotations

from tuner.planning import Candidate, Plan, difference_text
from tuner.planning.advice import Advice, OtherQuantization, WithoutProcess
from tuner.planning.from_disk import ASSUMED_DISK, FromDisk
from tuner.safe_text import one_line
from tuner.units import size_text, tps_text

_SLOW = 0.5  # tokens/s below which a token is waited for


def advice_lines(plan: Plan, advice: Advice) -> list[str]:
    """Each piece of advice in a sentence."""
    lines = []
    if advice.without_process:
        lines.append(_without_process(plan, advice.without_process))
    if advice.smaller:
        lines.append(_smaller(plan, advice.smaller))
    if advice.larger:
        lines.append(
            f"There is room for more precise weights: {_as(advice.larger)} would be whole too, "
            f"{_compared(advice.larger.candidate, plan.chosen)}."
        )
    if advice.from_disk:
        lines.append(_from_disk(plan, advice.from_disk))
    return lines


def _as(other: OtherQuantization) -> str:
    return f"as {other.name}, about {size_text(other.size_bytes)}, the model"


def _smaller(plan: Plan, other: OtherQuantization) -> str:
    c, chosen = other.candidate, plan.chosen
    if not chosen.fits:
        would = "fit"
    elif chosen.settings.n_gpu_layers < plan.model.n_items or chosen.settings.n_cpu_moe:
        would = f"be whole on {' and '.join(gpu.id for gpu in plan.machine.gpus)}"
    else:
        would = "leave room for more context"
    text = f"{_as(other)} would {would}: {_compared(c, chosen) if chosen.fits else _told(c)}."
    return text[0].upper() + text[1:]


def _told(c: Candidate) -> str:
    return f"{_rate(c.speed.decode_tps)}, with {c.settings.n_ctx:,} tokens of context"


def _compared(new: Candidate, old: Candidate) -> str:
    text = f"about {tps_text(new.speed.decode_tps)} tokens/s"
    text += f" instead of {tps_text(old.speed.decode_tps)}"
    if new.settings.n_ctx != old.settings.n_ctx:
        text += f", with {new.settings.n_ctx:,} tokens of context"
        text += f" instead of {old.settings.n_ctx:,}"
    return text


def _rate(tps: float) -> str:
    if tps >= _SLOW:
        return f"about {tps_text(tps)} tokens/s"
    return f"a token every {1 / tps:,.0f} seconds"


def _without_process(plan: Plan, without: WithoutProcess) -> str:
    held = " and ".join(f"{size_text(size)} on {device}" for device, size in without.used)
    start = f"With {one_line(without.name)} ({without.pid}) closed, which holds {held}: "
    if not plan.chosen.fits:
        return f"{start}it fits, {_told(without.candidate)}."
    return f"{start}{difference_text(plan.model, plan.chosen, without.candidate)}."


def _from_disk(plan: Plan, disk: FromDisk) -> str:
    s, n_items = disk.candidate.settings, plan.model.n_items
    where = ""
    if plan.machine.gpus:
        where = f" with {min(s.n_gpu_layers, n_items)} of {n_items} layers on the GPU"
        where += f", the experts of {s.n_cpu_moe} in RAM" if s.n_cpu_moe else ""
    return (
        f"llama.cpp would run it all the same, from its file{where}: {size_text(disk.missing)} of "
        f"the weights have no room in RAM, so at least {size_text(disk.per_token)} would be read "
        f"from disk for each token. From a disk of {ASSUMED_DISK / 1e9:.0f} GB/s, which is "
        f"assumed, that is {_rate(disk.decode_tps)} at best."
    )
