"""How the next token is chosen: one row per value, from which flags, bounds, the file's defaults,
profiles, reports and JSON are made.

Names, meanings and usual values are llama.cpp's (`common_params_sampling`, common/common.h; flags:
common/arg.cpp), but for the temperature, which is 0.8 there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from tuner.errors import UsageError
from tuner.json_values import Bound, Range, from_json, within
from tuner.units import INT32, UINT32

# llama.cpp's samplers in its order, by its names (`common_params_sampling::samplers`).
SAMPLERS = (
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature",
)  # fmt: skip

MAX_TEXTS = 64  # stop texts, sequence breakers
MAX_TEXT = 1000  # characters of one of them
MAX_BIASES = 10_000
MAX_GRAMMAR = 1 << 18  # characters of GBNF
FORBIDDEN = -1e9  # a logit bias that stands for minus infinity, which JSON has not


class Row(NamedTuple):
    """What people and files call a value."""

    flags: str  # the first one is what messages name
    metavar: str
    help: str
    key: str = ""  # in a file's header, after "general.sampling."
    kept: bool = True  # in the model's profile, where a flag states it


def _texts(texts: Any) -> bool:
    return len(texts) <= MAX_TEXTS and all(0 < len(text) <= MAX_TEXT for text in texts)


def _samplers(names: Any) -> bool:
    return set(names) <= set(SAMPLERS) and len(set(names)) == len(names)


_Share = Annotated[float, within(0, 1)]
_Count = Annotated[int, within(0, INT32)]
_Penalty = Annotated[float, within(-100, 100)]
# Named, since a function in a field's type does not see this module.
_FEW = Bound(lambda found: len(found) <= MAX_BIASES, f"{MAX_BIASES:,} at most")
_SHORT = Bound(lambda text: len(text) <= MAX_GRAMMAR, f"of {MAX_GRAMMAR:,} characters at most")
_Texts = Annotated[tuple[str, ...], Bound(_texts, f"up to {MAX_TEXTS} texts of 1 to {MAX_TEXT:,}")]


@dataclass(frozen=True, slots=True)
class LogitBias:
    """What is added to a token's logit; `FORBIDDEN` or less: it is never chosen."""

    token: _Count
    bias: Annotated[float, within(FORBIDDEN, -FORBIDDEN)]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen, and when an answer ends. A value that switches its sampler off
    keeps it out of the chain."""

    temperature: Annotated[
        float,
        within(0, 100),
        Row("--temperature --temp", "X", "how freely tokens are drawn; 0 is deterministic", "temp"),
    ] = 0.7
    top_p: Annotated[
        _Share, Row("--top-p", "X", "of the likeliest tokens that together make up X", "top_p")
    ] = 0.95
    top_k: Annotated[
        _Count, Row("--top-k", "N", "of the N likeliest tokens; 0: of all", "top_k")
    ] = 40
    min_p: Annotated[
        _Share, Row("--min-p", "X", "none less likely than X times the likeliest", "min_p")
    ] = 0.05
    seed: Annotated[
        Annotated[int, within(0, UINT32)] | None,
        Row("--seed", "N", "the same number gives the same answer again", kept=False),
    ] = None
    max_tokens: Annotated[
        Annotated[int, within(1, INT32)] | None,
        Row("--max-tokens", "N", "tokens of the longest answer", kept=False),
    ] = None
    typical_p: Annotated[
        _Share, Row("--typical --typical-p", "X", "of the most typical that make up X; 1: off")
    ] = 1.0
    top_n_sigma: Annotated[
        float,
        within(-1, 100),
        Row(
            "--top-nsigma --top-n-sigma",
            "X",
            "none further than X deviations below the likeliest; -1: off",
        ),
    ] = -1.0
    xtc_probability: Annotated[
        _Share,
        Row("--xtc-probability", "X", "XTC: how often it leaves out; 0: off", "xtc_probability"),
    ] = 0.0
    xtc_threshold: Annotated[
        _Share,
        Row("--xtc-threshold", "X", "XTC: all likelier than X but one", "xtc_threshold"),
    ] = 0.1
    dynatemp_range: Annotated[
        float,
        within(0, 100),
        Row("--dynatemp-range", "X", "how far the temperature moves with the entropy; 0: off"),
    ] = 0.0
    dynatemp_exponent: Annotated[
        float, within(0, 100), Row("--dynatemp-exp", "X", "how it moves")
    ] = 1.0
    repeat_last_n: Annotated[
        _Count,
        Row(
            "--repeat-last-n", "N", "tokens that the next three look back; 0: off", "penalty_last_n"
        ),
    ] = 64
    repeat_penalty: Annotated[
        float,
        within(0.01, 100),
        Row(
            "--repeat-penalty",
            "X",
            "divides the logits of what was said; 1: off",
            "penalty_repeat",
        ),
    ] = 1.0
    presence_penalty: Annotated[
        _Penalty, Row("--presence-penalty", "X", "taken from the logits of what was said; 0: off")
    ] = 0.0
    frequency_penalty: Annotated[
        _Penalty,
        Row("--frequency-penalty", "X", "the same for each time that it was said; 0: off"),
    ] = 0.0
    dry_multiplier: Annotated[
        float,
        within(0, 100),
        Row("--dry-multiplier", "X", "DRY: how hard repeated sequences are punished; 0: off"),
    ] = 0.0
    dry_base: Annotated[
        float, within(1, 100), Row("--dry-base", "X", "DRY: how much harder with each token")
    ] = 1.75
    dry_allowed_length: Annotated[
        _Count, Row("--dry-allowed-length", "N", "DRY: tokens that may be repeated")
    ] = 2
    dry_penalty_last_n: Annotated[
        _Count, Row("--dry-penalty-last-n", "N", "DRY: tokens that it looks back; 0: off")
    ] = 64
    dry_sequence_breakers: Annotated[
        _Texts,
        Row(
            "--dry-sequence-breaker",
            "TEXT",
            r"""DRY: text that ends a sequence, repeatable, or none (\n : " *)""",
        ),
    ] = ("\n", ":", '"', "*")
    mirostat: Annotated[
        int,
        within(0, 2),
        Row("--mirostat", "N", "1, 2: Mirostat in place of all but the temperature", "mirostat"),
    ] = 0
    mirostat_ent: Annotated[
        float,
        within(0, 100),
        Row("--mirostat-ent", "X", "Mirostat: the entropy that it aims at", "mirostat_tau"),
    ] = 5.0
    mirostat_lr: Annotated[
        float,
        within(0, 100),
        Row("--mirostat-lr", "X", "Mirostat: how fast it learns", "mirostat_eta"),
    ] = 0.1
    samplers: Annotated[
        tuple[str, ...],
        Bound(_samplers, f"some of {', '.join(SAMPLERS)}"),
        Row("--samplers", "A;B", f"samplers in their order ({';'.join(SAMPLERS)})", "sequence"),
    ] = SAMPLERS
    logit_bias: Annotated[
        tuple[LogitBias, ...],
        _FEW,
        Row(
            "--logit-bias",
            "TOKEN(+/-)X",
            "added to the logit of a token, by its id, repeatable; -inf forbids it",
            kept=False,
        ),
    ] = ()
    stop: Annotated[
        _Texts,
        Row(
            "--stop",
            "TEXT",
            r"ends the answer before TEXT (\n is a line end), repeatable",
            kept=False,
        ),
    ] = ()
    grammar: Annotated[str, _SHORT] = ""

    @property
    def stated(self) -> dict[str, Any]:
        """What is not as usual, by name."""
        values = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return {name: value for name, value, usual in values if value != usual}


class Value(NamedTuple):
    """One value of `Sampling`: its row, and what it may be."""

    name: str
    row: Row
    kind: type  # float, int or tuple
    default: Any
    least: float = 0
    most: float = 0

    def read(self, found: object) -> Any:
        """What a file's header states, made what it must be: there, any number does for any other
        and names are separated by semicolons. None where it makes no sense."""
        value: Any = None
        if self.kind is tuple and isinstance(found, str):
            value = sampler_names(found) or None
        elif isinstance(found, (int, float)) and not isinstance(found, bool):
            # A header's floats have seven digits.
            value = float(f"{found:.7g}") if self.kind is float else found
            if self.kind is int and isinstance(found, float):
                value = int(found) if found.is_integer() else None
        return value if value is not None and acceptable({self.name: value}) else None


@cache
def values() -> tuple[Value, ...]:
    """All values that have a row, in their order."""
    return tuple(_values())


def _values() -> Iterator[Value]:
    hints = get_type_hints(Sampling, include_extras=True)
    for f in fields(Sampling):
        kind, *about = get_args(hints[f.name])
        row = next((one for one in about if isinstance(one, Row)), None)
        if row is None:
            continue
        for inner in get_args(kind):  # of a value that may be None
            if get_origin(inner) is Annotated:
                kind, *about = get_args(inner)
                break
        bounds = next((one for one in about if isinstance(one, Range)), within(0, 0))
        yield Value(f.name, row, get_origin(kind) or kind, f.default, bounds.least, bounds.most)


def restated(text: str, sampling: Sampling) -> Sampling:
    """The sampling with what is said in words: "temperature 1.2, top-p 0.9", by the names of the
    flags or the fields. Raises UsageError."""
    names = {
        name.lstrip("-").replace("-", "_"): v for v in values() for name in v.row.flags.split()
    }
    names |= {value.name: value for value in values()}
    words = text.replace(",", " ").replace("=", " ").replace(":", " ").split()
    if not words or len(words) % 2:
        raise UsageError(f"Say it as 'temperature 1.2, top-p 0.9', not '{text}'.")
    changes: dict[str, Any] = {}
    for name, word in zip(words[::2], words[1::2], strict=True):
        value = names.get(name.lstrip("-").lower().replace("-", "_"))
        if value is None or value.kind not in (int, float):
            known = ", ".join(v.name for v in values() if v.kind in (int, float))
            raise UsageError(f"'{name}' is none of {known}.")
        try:
            changes[value.name] = value.kind(word)
        except ValueError:
            raise UsageError(f"{value.name} is a number, not '{word}'.") from None
        if not acceptable(changes):
            raise UsageError(
                f"{value.name} must be from {value.least:g} to {value.most:g}, not {word}."
            )
    return replace(sampling, **changes)


def acceptable(stated: Mapping[str, Any]) -> bool:
    """Whether `Sampling` takes these values, JSON's lists for tuples included."""
    known = {name: list(v) if isinstance(v, tuple) else v for name, v in stated.items()}
    try:
        from_json(Sampling, known)
    except ValueError:
        return False
    return True


def remembered(stated: Mapping[str, Any]) -> dict[str, Any]:
    """What a profile holds, of what it may hold."""
    names = {value.name for value in values() if value.row.kept}
    known = {name: stated[name] for name in stated if name in names}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in known.items()}


def sampler_names(text: str) -> tuple[str, ...]:
    """The samplers of "top_k;temp", spelt as llama.cpp lets them be spelt; those that it has not
    are passed over (`common_sampler_types_from_names`, common/sampling.cpp)."""
    spelt = {name.replace("_", sep): name for name in SAMPLERS for sep in "_-"}
    spelt |= {name.replace("_", ""): name for name in SAMPLERS}
    spelt |= {"nucleus": "top_p", "temp": "temperature", "typ": "typ_p"}
    names = (spelt.get(word.strip().lower()) for word in text.split(";"))
    return tuple(dict.fromkeys(name for name in names if name))


_SOURCES = {"flag": "by flag", "profile": "from the profile", "file": "from the file"}


@dataclass(frozen=True, slots=True)
class SamplingChoice:
    """What each source states, by name: a flag counts before the profile, the profile before the
    file, the file before what is usual."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    file: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sampling(self) -> Sampling:
        return Sampling(**{**self.file, **self.profile, **self.flags})

    @property
    def kept(self) -> dict[str, Any]:
        """What the model's profile is to hold: what it held, and what the flags say now."""
        return {**self.profile, **remembered(self.flags)}

    @property
    def sources(self) -> dict[str, tuple[Any, str]]:
        """(value, "flag" | "profile" | "file") of all that is stated, by name."""
        sources = tuple(zip(_SOURCES, (self.flags, self.profile, self.file), strict=True))
        found: dict[str, tuple[Any, str]] = {}
        for value in values():
            for source, stated in sources:
                if value.name in stated:
                    found[value.name] = (stated[value.name], source)
                    break
        return found

    def lines(self) -> list[str]:
        """One per source: "temperature 0.6, top_k 20 (from the file)"."""
        lines = []
        for source, words in _SOURCES.items():
            stated = {name: value for name, (value, by) in self.sources.items() if by == source}
            if stated:
                lines.append(f"{values_text(stated)} ({words})")
        return lines + ["the answer is of a grammar (by flag)"] * ("grammar" in self.flags)


def values_text(stated: Mapping[str, Any]) -> str:
    """As people read them: temperature 0.6, top_k 20."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in stated.items())


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        if set(value) <= set(SAMPLERS):
            return ";".join(value)
        return " ".join(
            f"{one.token}{one.bias:+g}" if isinstance(one, LogitBias) else repr(one)
            for one in value
        )
    return f"{value:g}" if isinstance(value, float) else f"{value}"
