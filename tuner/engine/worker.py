"""The model process: requests on stdin, events on stdout, everything else to the log.

Started by `worker_process.py` with its stderr on the log file. It may die; nothing else does then.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from typing import BinaryIO

from tuner.engine.abort import AbortFlag
from tuner.engine.lifeline import end_with_parent
from tuner.engine.protocol import ProtocolError, Quit, Request, Stop, decode
from tuner.engine.voice import Voice

_Requests = queue.SimpleQueue[tuple[int, Request] | None]

_LAST_SECONDS = 0.8  # for a computation to notice that the program is gone


def main() -> None:
    """Serves until Quit or the end of stdin, which a parent's death brings too."""
    with contextlib.suppress(ValueError, OSError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the program's
    end_with_parent()
    requests_in, events_out = _take_over_streams()
    abort = AbortFlag()
    requests: _Requests = queue.SimpleQueue()
    voice = Voice(events_out)
    threading.Thread(target=_listen, args=(requests_in, requests, abort), daemon=True).start()

    # Imported only now: whatever the engine says while it is loaded goes to the log, and the
    # listener already hears a Quit.
    from tuner.engine.service import Service  # noqa: PLC0415

    service = Service(abort, voice, log_fd=2)
    voice.rest()
    while (numbered := requests.get()) is not None:
        number, request = numbered
        with voice.serving(number):
            service.handle(request)
    os._exit(0)  # the system frees memory faster and more surely than drivers' destructors


def _take_over_streams() -> tuple[BinaryIO, BinaryIO]:
    """The pipes under new descriptors; 0 becomes empty and 1 the log, so that nothing the
    engine prints or reads can reach the protocol or a terminal."""
    requests = os.fdopen(os.dup(0), "rb")
    events = os.fdopen(os.dup(1), "wb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - lives as long as the process
    return requests, events


def _listen(pipe: BinaryIO, requests: _Requests, abort: AbortFlag) -> None:
    """Stop sets the flag at once, whatever runs; a new request clears it, since it can only
    come after the end of the one before."""
    last = 0
    for line in pipe:
        request: Request
        try:
            number, request = decode(line)
        except ProtocolError as error:
            print(f"kvchat: {error}", file=sys.stderr, flush=True)
            continue
        if isinstance(request, Quit):
            break
        if isinstance(request, Stop):
            if number == last:
                abort.set()
            continue
        last = number
        abort.clear()
        requests.put((number, request))
    abort.set()
    requests.put(None)
    time.sleep(_LAST_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    main()
