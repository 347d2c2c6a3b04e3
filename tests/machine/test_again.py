"""The machine measured again while our own model is loaded."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import psutil

from tests.support.fake_hardware import DESKTOP, RTX_4090, FakeCard, FakeNvml, write_files
from tests.support.giants import gpu, machine, unified
from tuner.machine.again import measured_again
from tuner.machine.machine import Machine
from tuner.units import GIB, MIB

OURS, THEIRS = 4711, 4712
CARD = FakeCard(used=20 * GIB, compute=((OURS, 15 * GIB), (THEIRS, 4 * GIB)))


def here(*cards: FakeCard) -> Machine:
    gpus = (replace(gpu(24.0, i), uuid=card.uuid) for i, card in enumerate(cards))
    return machine(*gpus)


def free(where: Machine, nvml: FakeNvml, **own: int) -> list[int]:
    pid = own.pop("pid", OURS)
    again = measured_again(where, own, pid or None, nvml=nvml, state=DESKTOP, root=Path("/none"))
    return [device.free for device in again.gpus]


def test_our_own_use_counts_as_free() -> None:
    """As the driver says it, else as the plan does; other programs' never."""
    where = here(CARD, RTX_4090)
    other = replace(RTX_4090, used=9 * GIB, compute=((OURS, None), (THEIRS, 3 * GIB)))
    nvml = FakeNvml((CARD, other))
    assert free(where, nvml, GPU0=GIB, GPU1=5 * GIB) == [19 * GIB, 20 * GIB]
    assert free(where, nvml, GPU0=GIB, GPU1=5 * GIB, pid=0) == [5 * GIB, 20 * GIB]
    # what was let go of already is not there twice
    assert free(where, nvml, GPU0=GIB, GPU1=50 * GIB)[1] == 24 * GIB


def test_what_does_not_answer_is_as_it_was() -> None:
    where = here(CARD)
    silent = FakeNvml((replace(CARD, total=None),))
    assert free(where, silent) == [24 * GIB]
    assert free(where, FakeNvml()) == [24 * GIB]


def test_gpus_that_the_engine_was_asked_for() -> None:
    where = machine(gpu(16.0, backend="Vulkan"))
    name = where.gpus[0].engine_name
    for there, expected in ((6 * GIB, 10 * GIB), (15 * GIB, 16 * GIB)):
        again = measured_again(where, {"GPU0": 4 * GIB}, None, asked={name: there})
        assert again.gpus[0].free == expected


def test_the_ram_within_its_limits(tmp_path: Path) -> None:
    """What a process has for itself counts as free again, within the control group."""
    here = machine(ram=64)
    me = psutil.Process().memory_info()
    own = me.rss - me.shared
    again = measured_again(here, {}, os.getpid(), state=DESKTOP, root=tmp_path)
    assert abs(again.host.free - (48 * GIB + own)) < 64 * MIB
    assert measured_again(here, {}, None, state=DESKTOP, root=tmp_path).host.free == 48 * GIB
    group = {
        "proc/self/cgroup": "0::/box\n",
        "sys/fs/cgroup/box/memory.max": str(8 * GIB),
        "sys/fs/cgroup/box/memory.current": str(3 * GIB),
    }
    write_files(tmp_path, group)
    assert measured_again(here, {}, None, state=DESKTOP, root=tmp_path).host.free == 5 * GIB
    assert measured_again(here, {}, 1 << 30, state=DESKTOP, root=tmp_path).host.free == 5 * GIB


def test_a_card_that_has_the_hosts_memory() -> None:
    chip = unified(limit=60, free=50)
    chip = replace(chip, gpus=(replace(chip.gpus[0], uuid="GPU-spark"),))
    again = measured_again(chip, {"GPU0": GIB}, None, state=DESKTOP, root=Path("/none"))
    assert again.gpus[0].free == again.host.free == 48 * GIB
