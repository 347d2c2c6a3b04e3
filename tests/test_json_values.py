"""JSON becomes dataclasses of the right types, or an error; nothing that a class has is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import pytest

from tests.support.giants import LLAMA_8B, giant, gpu, machine
from tests.support.settings import ADDED, extended, unusual
from tuner import json_values
from tuner.engine import protocol
from tuner.engine.protocol import Load, decode, encode
from tuner.json_values import from_json, one_of, within
from tuner.planning.planner import make_plan
from tuner.profiles import profiles as profiles_module
from tuner.profiles.profiles import Profile, Profiles
from tuner.report.json import report_json
from tuner.report.text import report_text
from tuner.settings import Settings
from tuner.wishes import Wishes


@dataclass(frozen=True)
class Inner:
    size: int


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner(1)
    parts: tuple[Inner, ...] = ()
    shares: tuple[float, ...] = ()
    speed: float | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    anything: Any = None
    flag: bool = False


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize(
    "whole",
    [
        Outer("x"),
        Outer("x", Inner(2), (Inner(3), Inner(4)), (1.5, 2.0), 0.5, {"a": 1}, {"b": [None]}, True),
    ],
)
def test_a_dataclass_survives(whole: Outer) -> None:
    """There and back, nested ones too; a key that is no field is passed over."""
    body = through_json(asdict(whole))
    assert from_json(Outer, body) == whole
    assert from_json(Outer, {**body, "unknown": 1}) == whole


def test_whole_numbers_are_numbers() -> None:
    """JSON writes 2.0 as 2 in other programs."""
    (share,) = from_json(Outer, {"name": "", "shares": [2]}).shares
    assert (share, type(share)) == (2.0, float)


@pytest.mark.parametrize(
    "body",
    [
        None, [], "x", {}, {"name": 1}, {"name": None}, {"name": "", "inner": {}},
        {"name": "", "inner": {"size": True}}, {"name": "", "inner": {"size": 1.0}},
        {"name": "", "parts": {}}, {"name": "", "parts": [1]}, {"name": "", "shares": ["1"]},
        {"name": "", "speed": float("nan")}, {"name": "", "speed": 10**400},
        {"name": "", "sizes": {"a": "1"}}, {"name": "", "sizes": []}, {"name": "", "flag": 0},
    ],
)  # fmt: skip
def test_anything_else_is_an_error(body: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        from_json(Outer, body)


@dataclass(frozen=True)
class Bounded:
    layers: Annotated[int, within(1, 8)] = 1
    speed: Annotated[float, within(0.5, 2.0)] | None = None
    kinds: tuple[Annotated[str, one_of("a", "b")], ...] = ()
    sizes: Mapping[str, Annotated[int, within(0, 4)]] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("body", "good"),
    [
        ({"layers": 1}, True), ({"layers": 8}, True), ({"layers": 0}, False),
        ({"layers": 9}, False), ({"layers": 1.0}, False), ({"speed": None}, True),
        ({"speed": 2}, True), ({"speed": 2.1}, False), ({"speed": -1}, False),
        ({"kinds": ["a", "b"]}, True), ({"kinds": ["a", "c"]}, False),
        ({"sizes": {"x": 4}}, True), ({"sizes": {"x": -1}}, False),
    ],
)  # fmt: skip
def test_bounds_are_part_of_a_type(body: dict[str, Any], good: bool) -> None:
    """Wherever in the type they stand; what is known to be ours may pass them."""
    if good:
        assert through_json(asdict(from_json(Bounded, body))).items() >= body.items()
    else:
        with pytest.raises(ValueError, match="is not"):
            from_json(Bounded, body)
    if body != {"layers": 1.0}:
        from_json(Bounded, body, bounded=False)


# ------------------------------------------------------------------ the fields of Settings


@pytest.fixture
def more(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Unusual settings of a class with a field that nobody knows yet."""
    kind = extended()
    for module in (protocol, profiles_module):
        monkeypatch.setattr(module, "Settings", kind)
    json_values._fields.cache_clear()
    yield kind(**{**asdict(unusual()), ADDED: 7})
    monkeypatch.undo()
    json_values._fields.cache_clear()


def test_every_setting_survives_the_wire(more: Settings) -> None:
    """What the solver chose is what the engine is told."""
    for settings in (more, replace(more, n_ctx=1)):
        got = decode(encode(Load("model.gguf", settings, 1)))[1]
        assert got.settings == settings
        assert asdict(got.settings)[ADDED] == 7


def test_every_setting_survives_the_profile(more: Settings, tmp_path: Path) -> None:
    """What was loaded is what is loaded again."""
    profiles = Profiles(tmp_path, machine="desk")
    assert profiles.save(Profile("f", "m", "/m", more))
    (found,) = profiles.list()
    assert found.settings == more
    assert asdict(found.settings)[ADDED] == 7


def test_every_setting_is_in_the_report(more: Settings) -> None:
    """What is reported is all that was decided; people are spared what is as usual."""
    plan = make_plan(giant(LLAMA_8B), machine(gpu(8)), Wishes())
    assert "use_extra_bufts" not in report_text(plan)
    plan = replace(plan, chosen=replace(plan.chosen, settings=more))
    assert through_json(report_json(plan))["plan"]["settings"] == through_json(asdict(more))
    for name in ("use_extra_bufts", "swa_full", ADDED):
        assert f"{name} {getattr(more, name)}" in " ".join(report_text(plan).split())
