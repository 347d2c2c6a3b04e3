"""Machines that a user describes: by the names of cards, by sizes, by RAM, cores and bandwidth."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_hardware import DESKTOP
from tuner.errors import UsageError
from tuner.machine import cards, host, nvidia
from tuner.machine.host import host_device
from tuner.machine.machine import ASSUMED_PCIE, RAM, Device, Machine
from tuner.machine.stated import stated
from tuner.machine.stated_gpus import parse_gpus
from tuner.units import GIB, MIB
from tuner.wishes import StatedGpu

CARD = Device("GPU0", "gpu", "CUDA", "Some card", 24 * GIB, 23 * GIB, 512 * MIB)
HERE = Machine(gpus=(CARD,), host=host_device(DESKTOP), physical_cores=8)


def named(*texts: str, ram: int | None = None, cores: int | None = None) -> Machine:
    """The machine of `--gpu`, beside a desktop with 8 cores and 64 GiB."""
    return stated(parse_gpus(texts, ram), ram, cores=cores, measured=HERE)


# ---------------------------------------------------------------- by size


def test_sizes_are_cuda_cards_of_their_usual_speed() -> None:
    found = stated([24 * GIB, 12 * GIB], 64 * GIB)
    assert [(g.id, g.total, g.free, g.source, g.backend) for g in found.gpus] == [
        ("GPU0", 24 * GIB, 24 * GIB, "stated", "CUDA"),
        ("GPU1", 12 * GIB, 12 * GIB, "stated", "CUDA"),
    ]
    assert [(g.bandwidth, g.bandwidth_source) for g in found.gpus] == [
        (940e9, "assumed"),
        (400e9, "assumed"),
    ]
    assert (found.host.total, found.host.free) == (64 * GIB, 64 * GIB)
    assert found.host.reserve == 64 * GIB // 10
    assert found.host.source == "stated"


def test_only_the_ram_stated_keeps_the_gpus() -> None:
    found = stated(None, 8 * GIB, measured=HERE)
    assert found.gpus == (CARD,)
    assert (found.host.free, found.host.reserve) == (8 * GIB, GIB)


@pytest.mark.parametrize("gpus", [[0], []])
def test_no_gpu_stated_is_a_machine_without_one(gpus: list[StatedGpu | int]) -> None:
    found = stated(gpus, measured=HERE)
    assert found.gpus == ()
    assert found.host.free == DESKTOP.available


# ---------------------------------------------------------------- by name


def test_a_named_card_has_the_figures_of_its_data_sheet() -> None:
    (gpu,) = named("RTX 3090").gpus
    assert (gpu.name, gpu.backend, gpu.total, gpu.free) == ("RTX 3090", "CUDA", 24 * GIB, 24 * GIB)
    assert gpu.bandwidth == pytest.approx(936e9, rel=0.01)
    assert gpu.bandwidth_source == "data sheet"
    assert (gpu.n_sm, gpu.clock, gpu.compute_capability) == (82, 2.1e9, (8, 6))
    assert gpu.pcie_bandwidth == pytest.approx(25.2e9, rel=0.01)
    assert gpu.flops == nvidia.peak_flops(82, 2.1e9, (8, 6))
    assert gpu.source == "stated"


def test_several_cards_by_commas_and_flags_with_a_size() -> None:
    found = named("RTX 3090,RTX 3060:8GiB", "4060ti : 16 GiB")
    assert [(g.id, g.name, g.total) for g in found.gpus] == [
        ("GPU0", "RTX 3090", 24 * GIB),
        ("GPU1", "RTX 3060", 8 * GIB),
        ("GPU2", "RTX 4060 Ti", 16 * GIB),
    ]
    assert found.gpus[1].bandwidth == 240e9, "that of the 8 GiB card, not of the usual one"


def test_a_card_with_other_memory_than_it_is_sold_with() -> None:
    (gpu,) = named("RTX 2080 Ti:22GiB").gpus
    assert named("RTX 2080 Ti 22GB").gpus == (gpu,), "the size may stand in the name"
    assert (gpu.total, gpu.bandwidth) == (22 * GIB, 616e9)


def test_an_amd_card_has_no_capability_but_a_speed() -> None:
    (gpu,) = named("RX 7900 XT").gpus
    assert (gpu.backend, gpu.bandwidth, gpu.compute_capability) == ("Vulkan", 800e9, None)
    assert 80e12 < gpu.flops < 150e12


def test_none_is_a_machine_without_a_gpu() -> None:
    assert named("none").gpus == ()
    assert named(" NONE ").host.free == DESKTOP.available


def test_a_card_too_small_is_left_out_with_the_reason() -> None:
    found = named("RTX 3090:1GiB")
    assert found.gpus == ()
    assert [gpu.name for gpu in found.unusable] == ["RTX 3090"]
    assert "left out" in found.warnings[0]


# ---------------------------------------------------------------- one RAM for both


def test_a_mac_has_its_gpu_in_its_ram() -> None:
    """Its size is the machine's RAM, of which Metal gives the GPU three quarters."""
    found = named("M4 Pro:48GiB")
    (gpu,) = found.gpus
    assert found.host.total == 48 * GIB
    assert (gpu.backend, gpu.unified, gpu.pool, gpu.total) == ("Metal", True, RAM, 36 * GIB)
    assert gpu.bandwidth == found.host.bandwidth == gpu.pcie_bandwidth == 273e9
    assert [pool.name for pool in found.pools] == [RAM]


def test_the_ram_of_a_mac_may_be_stated_as_ram() -> None:
    assert named("M4 Max", ram=36 * GIB).gpus[0].bandwidth == 410e9, "that of the 36 GiB chip"
    assert named("M4 Pro:24GiB", ram=24 * GIB).host.total == 24 * GIB


def test_a_small_mac_gives_its_gpu_less() -> None:
    (gpu,) = named("M1:16GiB").gpus
    assert gpu.total == pytest.approx(10.67 * GIB, rel=0.01)


def test_gb10_may_have_all_of_its_ram() -> None:
    found = named("DGX Spark")
    assert (found.gpus[0].total, found.host.total) == (128 * GIB, 128 * GIB)
    assert found.gpus[0].compute_capability == (12, 1)


def test_ram_bandwidth_is_the_gpus_too_where_it_has_no_other() -> None:
    found = stated(parse_gpus(["Strix Halo"]), ram_bandwidth=200e9, measured=HERE)
    assert found.gpus[0].bandwidth == found.host.bandwidth == 200e9
    other = stated(parse_gpus(["RTX 3090"]), ram_bandwidth=200e9, measured=HERE)
    assert (other.gpus[0].bandwidth, other.host.bandwidth) == (936.2e9, 200e9)


# ---------------------------------------------------------------- cores and bandwidth


def test_cores_carry_the_speed_of_the_cpu() -> None:
    found = stated(None, cores=16, measured=HERE)
    assert found.physical_cores == 16
    assert found.host.flops == host.assumed_flops(16)
    assert (found.host.bandwidth, found.host.source) == (host.ASSUMED_BANDWIDTH, "stated")
    assert found.gpus == (CARD,)
    one = stated(None, cores=1, measured=HERE)
    assert one.host.bandwidth == host.ASSUMED_BANDWIDTH


def test_ram_bandwidth_is_kept_beside_cores() -> None:
    found = stated(None, cores=16, ram_bandwidth=89.6e9, measured=HERE)
    assert (found.host.bandwidth, found.host.bandwidth_source) == (89.6e9, "stated")


# ---------------------------------------------------------------- what is assumed


def test_what_is_assumed_of_a_size() -> None:
    found = stated([24 * GIB], 64 * GIB, measured=HERE)
    assert found.assumed == (
        "GPU0 at 940 GB/s, the usual of 24.0 GiB, PCIe at 20 GB/s",
        "RAM at 64 GB/s",
        "the 8 cores of this machine",
    )
    assert found.gpus[0].pcie_bandwidth == ASSUMED_PCIE


def test_what_is_assumed_of_a_name() -> None:
    assert named("RTX 3060", cores=8).assumed == (
        "GPU0 at 360 GB/s by the data sheet, with CUDA",
        "GPU0 with 12.0 GiB: it is sold with 8.0 GiB too",
        "RAM at 64 GB/s",
    )
    assert len(named("RTX 3060:12GiB", cores=8).assumed) == 2
    assert "GPU0 may have 36.0 GiB of the RAM" in named("M4 Pro:48GiB").assumed


def test_a_mac_by_name_brings_its_cores() -> None:
    """Its performance cores compute what is not on its GPU, not those of the machine at hand."""
    mac = named("M4 Max:36GiB")
    assert mac.physical_cores == 10
    assert mac.host.flops == host.assumed_flops(10)
    assert mac.host.bandwidth == mac.gpus[0].bandwidth
    assert "the 10 performance cores of M4 Max" in mac.assumed
    assert named("M4 Max:36GiB", cores=8).physical_cores == 8
    assert "the 8 cores of this machine" in named("M5 Max:36GiB").assumed  # not known of that one


def test_nothing_is_assumed_of_what_is_stated_or_measured() -> None:
    assert stated([], 8 * GIB, ram_bandwidth=50e9, cores=4, measured=HERE).assumed == ()
    measured_ram = replace(HERE, host=replace(HERE.host, bandwidth_source="measured"))
    assert stated([], measured=measured_ram).assumed == ("the 8 cores of this machine",)


# ---------------------------------------------------------------- what makes no sense


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("RTX 3095", "nearest names are RTX 30"),
        ("", "needs the name of a card"),
        ("RTX 3090,", "needs the name of a card"),
        ("RTX 3090:24", "has no unit"),
        ("RTX 3090:", "--gpu '' is not a size"),
        ("RTX 3090:0GiB", "has no memory"),
        ("RTX 3090:big", "is not a size"),
        ("none,RTX 3090", "without a GPU"),
        ("none:4GiB", "without a GPU"),
        ("M4 Pro,M1", "machines of their own"),
        ("RTX 3090,M4 Pro", "no other card works in a machine with M4 Pro"),
        ("\x1b[2J", "knows no card"),
    ],
)
def test_one_sentence_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        parse_gpus([text])
    assert "\x1b" not in str(raised.value)
    assert "\n" not in str(raised.value)


@given(text=st.text(max_size=80), size=st.sampled_from(("", ":8GiB", ":8", ":")))
def test_whatever_is_written_is_a_machine_or_one_sentence(text: str, size: str) -> None:
    """A name that no card has is answered with names that cards have."""
    said = ""
    try:
        parse_gpus([text + size])
    except UsageError as error:
        said = str(error)
    if "knows no card" in said:
        near = said.split("nearest names are ")[1].split(";")[0].split(", ")
        assert all(cards.row_of(name) for name in near)
        assert len(said.splitlines()) == 1


def test_two_sizes_of_one_ram_are_a_contradiction() -> None:
    with pytest.raises(UsageError, match=r"48\.0 GiB of RAM, --ram 64\.0 GiB"):
        parse_gpus(["M4 Pro:48GiB"], 64 * GIB)


def test_a_name_that_no_table_has_is_an_error_of_its_own() -> None:
    """A library's user may make one up."""
    assert cards.row_of("Voodoo 2") is None
    with pytest.raises(UsageError, match="no card 'Voodoo 2'"):
        stated([StatedGpu(GIB, "Voodoo 2")], measured=HERE)


def test_the_engine_s_switches_count_beside_stated_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGML_OP_OFFLOAD_MIN_BATCH", "77")
    assert stated([24 * GIB]).switches.offloaded == 77
