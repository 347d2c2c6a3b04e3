"""llama.cpp's RPC servers: how a user names them, and what is wrong with one that is of no use.

The engine's own client (ggml-rpc.cpp) ends its process where it cannot connect, does not like what
it hears, or loses a server later; what it said before tells which it was.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence

from tuner.engine_version import ENGINE_VERSION
from tuner.errors import UsageError

SILENCE = 10.0  # seconds for which a server may take a connection and say nothing
_CONNECT_SECONDS = 5.0
_LOOK_SECONDS = 1.0  # for a server that was there a moment ago

_OTHER_VERSION = re.compile(r"RPC server version mismatch: ([\d.]+)")
_LOST = re.compile(
    r"Remote RPC server crashed|RPC handshake failed|Failed to connect to \S+:\d|"
    r"RPC server version mismatch"
)


def addresses(flags: Iterable[str]) -> tuple[str, ...]:
    """The servers that `--rpc` names, several of them with commas between, each once. Raises
    UsageError for what is no address that the engine could use."""
    named = [one.strip() for flag in flags for one in flag.split(",")]
    return tuple(dict.fromkeys(map(_checked, named)))


def _checked(address: str) -> str:
    host, colon, port = address.partition(":")
    if ":" in port:
        raise UsageError(
            f"--rpc takes IPv4 addresses and names, as llama.cpp does, not '{address}'."
        )
    number = int(port) if port.isascii() and port.isdecimal() else 0
    if not (host and colon and 0 < number < 1 << 16) or re.search(r"[\s/@]", host):
        raise UsageError(f"--rpc takes HOST:PORT, like 192.168.1.20:50052, not '{address}'.")
    return f"{host}:{number}"


def reach(server: str, seconds: float = _CONNECT_SECONDS) -> None:
    """Connects to "host:port" and leaves again. Raises OSError, which says why there is no way."""
    host, _, port = server.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except socket.gaierror:
        raise OSError(f"there is no host '{host}' for the RPC server {server}") from None
    except ConnectionRefusedError:
        raise OSError(f"no RPC server runs at {server}: the connection is refused") from None
    except TimeoutError:
        raise OSError(f"the RPC server {server} does not answer") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise OSError(f"the RPC server {server} cannot be reached ({why})") from None


def silent(server: str) -> str:
    """What to say of one that takes a connection and does not speak."""
    return (
        f"the RPC server {server} does not speak: it serves one client at a time and may have "
        "another, or it is no RPC server"
    )


def rejected(server: str, said: str) -> str:
    """Why the engine ended its process over this server. `said`: its last words."""
    if version := _OTHER_VERSION.search(said):
        return (
            f"the RPC server {server} is of another version (RPC protocol {version[1]}): it must "
            f"be of the llama.cpp that is in llama-cpp-python {ENGINE_VERSION}"
        )
    return (
        f"what answers at {server} is no RPC server, or one of another version than the llama.cpp "
        f"in llama-cpp-python {ENGINE_VERSION}"
    )


def names_server(line: str) -> bool:
    """Whether a line of the engine's says that it lost an RPC server."""
    return _LOST.search(line) is not None


def gone(servers: Sequence[str]) -> list[str]:
    """Those of the servers that cannot be reached now."""
    found = []
    for server in servers:
        try:
            reach(server, _LOOK_SECONDS)
        except OSError:
            found.append(server)
    return found


def lost_text(servers: Sequence[str], away: Sequence[str]) -> str:
    """How a process died that had these servers and lost one, as a clause. `away`: those that are
    `gone`; where none is, one has broken the connection off, as for want of memory."""
    named = ", ".join(away or servers)
    if away:
        plural = len(away) > 1
        return f"the RPC server{'s' if plural else ''} {named} {'are' if plural else 'is'} gone"
    one = "the RPC server" if len(servers) == 1 else "one of the RPC servers"
    return f"{one} {named} broke the connection off"
