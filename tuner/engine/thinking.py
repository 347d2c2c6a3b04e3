"""How much a model thinks, as far as its chat template lets one choose.

Templates have variables for it, each with values of its own. Which of them a template reads, and
which values make a difference, is found out by rendering: a level is offered where its prompt
differs from that of every other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.wishes import THINK_LEVELS

_TRIED = ("off", "on", "low", "high", "medium")  # of two that are the same the first is offered

Variables = Mapping[str, Any]

_SWITCH = {"off": (False,), "on": (True,), "low": (True,), "medium": (True,), "high": (True,)}
_EFFORT = {"low": ("low", "minimal"), "medium": ("medium",), "high": ("high", "max")}

# Each variable's values by level, in the order in which they are tried; a switch comes before what
# matters only while it is on. Values in `_NAMED` are given only to a template that names them: one
# that prints whatever it is given was made for others.
_VARIABLES: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "enable_thinking": _SWITCH,  # Qwen 3, GLM 4.5, Gemma 4
    "thinking": _SWITCH,  # DeepSeek V3.1, Granite 3, Kimi
    "thinking_mode": {
        level: ("disabled" if level == "off" else "enabled",) for level in THINK_LEVELS
    },  # MiniMax M3
    "reasoning_effort": {**_EFFORT, "off": ("none", "no_think")},  # gpt-oss, Solar, Hunyuan
    "reasoning_strength": _EFFORT,
    "thinking_effort": _EFFORT,  # Kimi
    "thinking_budget": {  # Seed-OSS: tokens, in steps of 512; -1 without bounds
        "off": (0,), "low": (1024,), "medium": (4096,), "high": (16384,), "on": (-1,),
    },
}  # fmt: skip
_NAMED = {"none", "no_think", "minimal", "max"}


@dataclass(frozen=True, slots=True)
class Thinking:
    """What a template offers. `usual`: the level that it has by itself, "" where it is none of
    these."""

    levels: Mapping[str, Variables] = field(default_factory=dict)
    usual: str = ""

    @property
    def offered(self) -> tuple[str, ...]:
        return tuple(level for level in THINK_LEVELS if level in self.levels)

    def variables(self, level: str) -> Variables:
        """What a template is given for a level; nothing for "", and where it has none like it."""
        return self.levels.get(nearest(level, self.offered, self.usual), {})


def nearest(level: str, offered: tuple[str, ...], usual: str) -> str:
    """The level that is meant by one that a template may not have; "" where it has none."""
    if level in offered or not level or not offered:
        return level if level in offered else ""
    if level == "on":
        return usual if usual != "off" else offered[-1]
    among = [each for each in offered if each != "off"] or offered
    rank = THINK_LEVELS.index(level)
    return min(
        among, key=lambda each: (abs(THINK_LEVELS.index(each) - rank), -THINK_LEVELS.index(each))
    )


def taken_as(level: str, offered: tuple[str, ...], usual: str) -> str:
    """A sentence where a template does not offer the level that was asked for; else ""."""
    if not level or level in offered:
        return ""
    if not offered:
        return f"the chat template offers no choice of thinking, so {level} changes nothing"
    found = nearest(level, offered, usual)
    if level == "on":
        return ""
    names = " or ".join((", ".join(offered[:-1]), offered[-1]) if len(offered) > 1 else offered)
    return f"the chat template offers thinking {names}: {level} is taken as {found}"


def discover(say: Callable[[Variables], str | None], source: str) -> Thinking:
    """What a template offers. `say`: its prompt with these variables, None where it rejects
    them."""
    texts: dict[tuple[tuple[str, Any], ...], str | None] = {}

    def said(given: Variables) -> str | None:
        key = tuple(sorted(given.items()))
        if key not in texts:
            texts[key] = say(given)
        return texts[key]

    usual = said({})
    names = [name for name in _VARIABLES if name in source]
    if usual is None or not names:
        return Thinking()
    tried = {level: _level(level, names, said, source) for level in _TRIED}
    read = {name for given in tried.values() for name in given if _matters(name, given, said)}
    found: dict[str, Variables] = {}
    for level, given in tried.items():
        known = {name: value for name, value in given.items() if name in read}
        if known and said(known) not in (None, *map(said, found.values())):
            found[level] = known
    efforts = [level for level in found if level not in ("off", "on")]
    if len(efforts) == 1 and "on" not in found:  # there is nothing to be less or more than
        found["on"] = found.pop(efforts[0])
    if not found or [*found] == ["on"]:
        return Thinking()
    return Thinking(found, next((level for level in found if said(found[level]) == usual), ""))


def _level(
    level: str, names: list[str], said: Callable[[Variables], str | None], source: str
) -> Variables:
    """What this level gives, read or not."""
    given: dict[str, Any] = {}
    for name in names:
        for value in _VARIABLES[name].get(level, ()):
            if value in _NAMED and not any(f"{q}{value}{q}" in source for q in "'\""):
                continue
            if said({**given, name: value}) is not None:
                given[name] = value
                break
    return given


def _matters(name: str, given: Variables, said: Callable[[Variables], str | None]) -> bool:
    """Whether the prompt depends on a variable, alone or beside the others."""
    others = {other: value for other, value in given.items() if other != name}
    return said(given) != said(others) or said({name: given[name]}) != said({})
