"""Records what the engine would allocate, for tests that have no engine at hand.

    python -m bench.record_sizes ARCHIVE FOLDER...
    python -m bench.record_sizes JSON FOLDER... --backends CUDA,Vulkan --sources vendor/llama.cpp

FOLDER holds GGUF files or headers named NAME@FULLSIZE, as for `bench.memory_accuracy`. ARCHIVE
becomes a .tar.xz of their headers, each as NAME@FULLSIZE, and `sizes.json`: for the same grid of
settings, on one and two stand-in GPUs, the bytes [weights, cache, compute] of each GPU and last of
the host, or that the engine refuses. What a file holds beyond its header is never read.

With `--backends` the stand-ins have the rules of GPUs (`bench.backend_rules`), and a JSON file gets
the bytes of compute under each: FOLDER has some of the archive's headers.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from bench.backend_rules import NAMES, built
from bench.memory_accuracy import RULES, grid, stretched
from bench.oracle import Oracle, available, off_usual
from tuner.gguf.header import read_header
from tuner.model.model import describe


def record(file: Path, n_layers: int, oracle: Oracle, n_gpus: int) -> list[dict[str, Any]]:
    """A row for each settings of the grid; with two GPUs, for the first two."""
    rows = []
    for settings in grid(n_layers, n_gpus, quick=n_gpus > 1):
        answer = oracle.ask(file, settings)
        differing = off_usual(settings)
        row: dict[str, Any] = {"file": file.name, "settings": differing, "n_gpus": n_gpus}
        if answer.error:
            row["refused"] = True
            print(f"{file.name}: {differing}: {answer.error.splitlines()[-1]}", file=sys.stderr)
        else:
            row["sizes"] = [[s.weights, s.cache, s.compute] for s in answer.sizes]
        rows.append(row)
    return rows


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _record_backends(options: argparse.Namespace) -> int:
    """One row a line, so that a change of the engine is a change of few lines."""
    rules = built(options.sources, RULES)
    with tempfile.TemporaryDirectory() as scratch:
        files = [f for folder in options.folders for f in stretched(folder, Path(scratch))]
        n_layers = {file: describe(read_header(file)).n_layer_all for file in files}
        rows: list[dict[str, Any]] = []
        for backend in options.backends.split(","):
            for n_gpus in (1, 2):
                with Oracle(n_gpus, backend=backend, rules=rules) as oracle:
                    for file in files:
                        for row in record(file, n_layers[file], oracle, n_gpus):
                            if sizes := row.pop("sizes", None):
                                row["compute"] = [size[2] for size in sizes]
                                rows.append({"backend": backend, **row})
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    options.archive.write_text(f"[\n{lines}\n]\n")
    print(f"{len(rows)} rows of {len(files)} files in {options.archive}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("archive", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder")
    parser.add_argument("--backends", default="", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--sources", type=Path, help="llama.cpp's folder, for --backends")
    options = parser.parse_args()
    if bool(options.backends) != bool(options.sources):
        parser.error("--backends and --sources belong together")
    if not available():
        print("needs an engine built with GGML_RPC=ON on x86-64 Linux", file=sys.stderr)
        return 5
    if options.backends:
        return _record_backends(options)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(options.archive, "w:xz") as archive:
        files = [f for folder in options.folders for f in stretched(folder, Path(scratch))]
        headers = {file: read_header(file) for file in files}
        n_layers = {file: describe(header).n_layer_all for file, header in headers.items()}
        for n_gpus in (1, 2):
            with Oracle(n_gpus) as oracle:
                for file in files:
                    rows += record(file, n_layers[file], oracle, n_gpus)
        for file in files:
            size = file.stat().st_size
            with file.open("rb") as stream:
                _add(archive, f"{file.name}@{size}", stream.read(headers[file].data_offsets[0]))
        _add(archive, "sizes.json", json.dumps(rows, separators=(",", ":")).encode())
    print(f"{len(rows)} rows of {len(files)} files in {options.archive}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
