"""Runs the command that `--emit llama-server` prints, and holds its memory against the plan's.

    python -m bench.emitted LLAMA_SERVER [MODEL]      # MODEL: the demo model

The server of the same llama.cpp, on the CPU and with a stand-in GPU over RPC: cache and compute
buffers, in MiB, as it logs them. Ends with status 1 where one is off by more than 0.01.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tests.support.standin_gpu import standin_gpu
from tuner.demo import demo_model_path
from tuner.engine.log_lines import parse_buffers
from tuner.units import MIB

PORT = 18_182
SECONDS = 60
KINDS = ("kv_cache", "compute")
OFF = 0.01  # MiB: the log has two decimals
CASES = (
    (False, ()),
    (False, ("--ctx", "2048", "--kv", "q8_0", "--ubatch", "128")),
    (True, ("--gpu-layers", "all")),
    (True, ("--gpu-layers", "20", "--ctx", "4096", "--type-v", "q8_0")),
)

Sizes = defaultdict[tuple[str, str], float]  # MiB by device and kind


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("server", type=Path, metavar="LLAMA_SERVER")
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL")
    args = parser.parse_args()
    model = args.model or demo_model_path()
    worst = 0.0
    for with_gpu, flags in CASES:
        with standin_gpu() if with_gpu else nullcontext() as gpu:
            given = (str(model), "--no-profile", *flags, *(("--rpc", gpu) if gpu else ()))
            planned = _planned(_kvchat(*given, "--explain", "--json"))
            real = _real(args.server, _kvchat(*given, "--emit", "llama-server"))
        print(" ".join(flags) or "as chosen", "(a stand-in GPU)" if with_gpu else "")
        for key in sorted(planned.keys() | real.keys()):
            worst = max(worst, abs(planned[key] - real[key]))
            device, kind = key
            print(f"  {device:6}{kind:10}{planned[key]:10.2f} planned{real[key]:10.2f} taken")
    return int(worst > OFF)


def _kvchat(*args: str) -> str:
    command = [sys.executable, "-m", "tui.start", *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _planned(report: str) -> Sizes:
    uses: list[dict[str, Any]] = json.loads(report)["plan"]["footprint"]
    sizes = {(use["device"], kind): use[kind] / MIB for use in uses for kind in KINDS}
    return defaultdict(float, {key: size for key, size in sizes.items() if size})


def _real(server: Path, command: str) -> Sizes:
    """The same of the server that the command starts, once it can answer."""
    _, *words = shlex.split(command.replace("\\\n", ""), comments=True)
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [server, *words, "--port", str(PORT), "--verbosity", "5"], stdout=log, stderr=log
        )
        try:
            answers = _answers(process)
        finally:
            process.terminate()
            process.wait()
        log.seek(0)
        if not answers:
            raise SystemExit(f"the server did not come up:\n{log.read()[-2000:]}")
        lines = [re.sub(r"^[\d.]+ \w ", "", line) for line in log]
    found: Sizes = defaultdict(float)
    for buffer in parse_buffers(lines):
        if buffer.kind in KINDS:
            found["GPU0" if buffer.device.startswith("RPC") else "host", buffer.kind] += (
                buffer.size / MIB
            )
    return found


def _answers(process: subprocess.Popen[bytes]) -> bool:
    """Waits until the server is ready. False: it ended, or takes too long."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5):
                return True
        except OSError:
            time.sleep(0.2)
    return False


if __name__ == "__main__":
    sys.exit(main())
