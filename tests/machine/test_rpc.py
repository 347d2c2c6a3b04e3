"""How RPC servers are named, and how one that is lost is told."""

from __future__ import annotations

import socket

import pytest

from tuner.engine.log_lines import last_words
from tuner.errors import UsageError
from tuner.machine.rpc import addresses, gone, lost_text, names_server


def test_servers_are_named_by_flags_and_commas_each_once() -> None:
    assert addresses(["a:1", " b.lan:2,a:1", "10.0.0.1:050052"]) == (
        "a:1",
        "b.lan:2",
        "10.0.0.1:50052",
    )
    assert addresses([]) == ()


@pytest.mark.parametrize(
    "wrong",
    ["a", ":1", "a:", "a:b", "a:0", "a:65536", "", "a:1,", "http://a:1", "a b:1", "a:\u0661"],
)
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="--rpc takes"):
        addresses([wrong])


def test_llama_cpp_knows_ipv4_alone() -> None:
    with pytest.raises(UsageError, match="IPv4"):
        addresses(["[::1]:50052"])


@pytest.mark.parametrize(
    "line",
    [
        "/src/ggml-rpc.cpp:566: Remote RPC server crashed or returned malformed response",
        "/src/ggml-rpc.cpp:539: RPC handshake failed for a:1",
        "/src/ggml-rpc.cpp:536: Failed to connect to a:1",
    ],
)
def test_a_lost_server_is_known_by_the_last_words(line: str) -> None:
    survived = "ggml_cuda_host_malloc: failed to allocate 4.00 MiB of pinned memory: out of memory"
    said = last_words(["error: something before", survived, line])
    assert said == line
    assert names_server(said)


def test_those_that_are_gone_are_told_from_those_that_broke_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        here = f"127.0.0.1:{there.getsockname()[1]}"
        assert gone([here, "127.0.0.1:9"]) == ["127.0.0.1:9"]
    assert lost_text(["a:1", "b:2"], ["b:2"]) == "the RPC server b:2 is gone"
    assert lost_text(["a:1", "b:2"], ["a:1", "b:2"]) == "the RPC servers a:1, b:2 are gone"
    assert lost_text(["a:1"], []) == "the RPC server a:1 broke the connection off"
