"""Real RPC servers on loopback: two of them, one that dies, one with too little memory, a cache."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench.oracle import rpc_available
from bench.random_models import write_model
from tests.support.standin_gpu import Server, rpc_server
from tuner.demo import demo_model_path
from tuner.engine.client import BROKEN_OFF_WARNING, EngineClient
from tuner.engine.protocol import Done, Generate, Load, Loaded, Message, Progress, Text
from tuner.errors import EngineError
from tuner.launch import Launcher
from tuner.launch.events import Ready, Retry
from tuner.profiles.profiles import Profiles
from tuner.sampling import Sampling
from tuner.settings import Settings
from tuner.tuning import Tuning
from tuner.units import GIB, MIB
from tuner.wishes import LaunchRequest, Wishes

pytestmark = pytest.mark.skipif(not rpc_available(), reason="the engine was built without RPC")

SETTINGS = Settings(n_ctx=512, n_gpu_layers=99, use_extra_bufts=False)
ASK = Generate((Message("user", "Tell me a long story."),), Sampling(temperature=0, max_tokens=300))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[EngineClient]:
    with EngineClient(tmp_path / "engine.log") as client:
        yield client


def load(client: EngineClient, *servers: str, settings: Settings = SETTINGS) -> Loaded:
    last = list(client.load(Load(str(demo_model_path()), settings, 1, servers)))[-1]
    assert isinstance(last, Loaded)
    return last


def test_one_of_two_that_dies_in_mid_answer_is_named(client: EngineClient) -> None:
    """The layers lie on both as they were split; a load without the dead one goes on."""
    with rpc_server() as first, rpc_server() as second:
        both = (first.address, second.address)
        loaded = load(client, *both, settings=replace(SETTINGS, tensor_split=(21.0, 10.0)))
        weights = {b.device: b.size for b in loaded.buffers if b.kind == "weights"}
        ours = [next(weights[d] for d in weights if address in d) for address in both]
        assert ours[0] > 40 * MIB
        assert ours[1] > 40 * MIB, "the output is the larger part of it"
        stream = client.generate(ASK)
        assert any(isinstance(event, Text) for event in stream)
        second.kill()
        with pytest.raises(EngineError) as caught:
            list(stream)
        assert caught.value.kind == "crashed"
        assert str(caught.value).startswith(f"the RPC server {second.address} is gone, and the ")
        with pytest.raises(EngineError, match=f"no RPC server runs at {second.address}"):
            load(client, *both)
        load(client, first.address)
        assert any(isinstance(event, Text) for event in client.generate(ASK))


def test_a_prompt_has_been_read_once_it_is_computed(client: EngineClient) -> None:
    """A server, like a GPU, computes on after the engine's call returns: that belongs to the
    prompt, its speed and its patience, not to the first token of the answer."""
    ask = Generate(
        (Message("user", "Of foxes and dogs. " * 60),), replace(ASK.sampling, max_tokens=1)
    )
    with rpc_server() as server:
        load(client, server.address)
        (done,) = [event for event in client.generate(ask) if isinstance(event, Done)]
    assert done.prompt_seconds > 5 * done.decode_seconds


def test_one_that_dies_during_a_load_is_named(client: EngineClient) -> None:
    def load_without(server: Server) -> None:
        for event in client.load(Load(str(demo_model_path()), SETTINGS, 1, (server.address,))):
            if isinstance(event, Progress):
                server.kill()

    with rpc_server() as server:
        with pytest.raises(
            EngineError, match=f"^the RPC server {server.address} is gone"
        ) as caught:
            load_without(server)
        assert caught.value.kind == "crashed"


def test_one_that_cannot_hold_what_it_is_sent_has_too_little_memory(client: EngineClient) -> None:
    """It has room for its buffers, and none for the largest tensor on its way into them, at which
    the second try ends, too."""
    with rpc_server(memory=120 * MIB) as server:
        with pytest.raises(EngineError, match="broke the connection off") as caught:
            load(client, server.address)
        assert caught.value.kind == "out_of_memory"


def test_a_server_with_less_memory_than_it_says_takes_a_smaller_plan(client: EngineClient) -> None:
    """Under its limit it still reports the whole RAM: what is planned first does not fit."""
    with rpc_server(memory=260 * MIB) as server:
        wishes = Wishes(n_gpu_layers=99)
        request = LaunchRequest(
            demo_model_path(), wishes, rpc_servers=(server.address,), threads=1, use_profile=False
        )
        events = list(Launcher(request, client).start())
    assert any(isinstance(e, Retry) and e.reason.startswith("Out of memory; ") for e in events)
    ready = events[-1]
    assert isinstance(ready, Ready)
    assert ready.running.plan.chosen.footprint.uses[0].total < 260 * MIB


@pytest.mark.parametrize("cuts", [(40,), (20, 20 + 60)])
def test_a_network_that_breaks_is_not_taken_for_a_want_of_memory(
    client: EngineClient, cuts: tuple[int, ...]
) -> None:
    """Where the server is still there the load is tried once more; where that ends elsewhere, no
    smaller plan would be of use. `cuts`: after how many MiB in all."""
    with rpc_server() as server, counted(server.address, [cut * MIB for cut in cuts]) as (way, _):
        if len(cuts) > 1:
            with pytest.raises(EngineError, match="broke the connection off") as caught:
                load(client, way)
            assert caught.value.kind == "crashed"
        else:
            assert BROKEN_OFF_WARNING in load(client, way).warnings


@contextmanager
def counted(address: str, cuts: Sequence[int] = ()) -> Iterator[tuple[str, list[int]]]:
    """A way to a server that counts the bytes sent to it, one client at a time. It breaks after
    so many of them."""
    host, _, port = address.partition(":")
    sent, left = [0], [*cuts]

    def pass_on(source: socket.socket, target: socket.socket, count: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sent[0] += len(data) if count else 0
                if left and sent[0] > left[0]:
                    del left[0]
                    source.close()
                    break
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = way.accept()
                server = socket.create_connection((host, int(port)))
                threading.Thread(target=pass_on, args=(server, client, False), daemon=True).start()
                threading.Thread(target=pass_on, args=(client, server, True), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as way:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{way.getsockname()[1]}", sent
        way.shutdown(socket.SHUT_RDWR)


def test_what_a_server_keeps_is_not_sent_again(client: EngineClient, tmp_path: Path) -> None:
    """Tensors of more than 10 MiB, of which this model has one, are known by their hash."""
    with rpc_server(cache=tmp_path / "cache") as server, counted(server.address) as (way, sent):
        load(client, way)
        first = sent[0]
        (kept,) = (tmp_path / "cache").iterdir()
        client.close()
        load(client, way)
        second = sent[0] - first
    size = kept.stat().st_size
    assert size > 10 * MIB
    assert second == pytest.approx(first - size, rel=0.02)


def test_a_process_says_what_is_free_on_its_devices(client: EngineClient) -> None:
    """Of those that are named, in the registry's order, with and without a model."""
    assert client.device_memory(["CPU"]) is None, "there is no process"
    with rpc_server() as server:
        request = Load(str(demo_model_path()), SETTINGS, 1, (server.address,))
        client.dry_run(request)
        before = client.device_memory(["RPC0", "CPU", "Vulkan7"])
        assert before is not None
        assert {memory.name for memory in before} == {"RPC0", "CPU"}
        assert all(0 < memory.free <= memory.total for memory in before)
        load(client, server.address)
        assert client.device_memory([]) == ()
        (cpu,) = client.device_memory(["CPU"]) or ()
        assert cpu.total == psutil.virtual_memory().total


def test_what_a_load_and_a_long_prompt_take_of_a_server_is_measured(
    client: EngineClient, tmp_path: Path
) -> None:
    """The server takes scratch memory for its products when the first whole micro-batch comes. The
    next plan counts on what the first load showed."""
    path = write_model(tmp_path, "experts", MIB)
    Profiles().learn(lambda facts: replace(facts, use_extra_bufts=False))
    with rpc_server(told=GIB) as server:
        wishes = Wishes(n_ctx=4096, n_ubatch=2048, n_gpu_layers=99)
        request = LaunchRequest(path, wishes, rpc_servers=(server.address,), threads=1)
        *_, ready = Launcher(request, client).start()
        assert isinstance(ready, Ready)
        running = ready.running
        use, (taken,) = running.actual.footprint.uses[0], running.actual.taken
        assert taken is not None
        assert use.total <= taken < use.total + MIB
        asked = "".join(f" word{i}" for i in range(300))  # over 2,048 tokens
        list(running.generate([Message("user", asked)], Sampling(max_tokens=1)))
        (grown,) = running.actual.grown
        assert grown is not None
        assert 0 < grown < 16 * MIB
        running.close()
        (again,) = Tuning.of(request).machine.gpus
    assert (again.overhead, again.overhead_source) == (taken - use.total, "measured")
    assert again.growth.of(2048, experts=True).usual == grown
    assert again.growth.source(2048) == "measured"
