"""The header reader and the engine's own (gguf.cpp) give the same verdict on damaged files."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.gguf_files import F16, Q4_0, Q4_K, Tensor, header_bytes
from tuner.engine.probe import open_library
from tuner.errors import FileError
from tuner.gguf.header import read_header
from tuner.machine.engine_build import library_folder

ROOM = 1 << 20  # bytes after the header, so that offsets and sizes may move


class _Parameters(ctypes.Structure):
    """struct gguf_init_params (gguf.h)"""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


@pytest.fixture(scope="module")
def engine() -> Any:
    folder = library_folder()
    if folder is None:
        pytest.skip("no engine is installed")
    pytest.importorskip("llama_cpp")
    library = open_library("ggml-base", folder)
    # llama_cpp's own logger cannot decode names that are no UTF-8; ggml's own prints bytes.
    library.ggml_log_set(None, None)
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, _Parameters]
    library.gguf_free.restype = None
    library.gguf_free.argtypes = [ctypes.c_void_p]
    return library


def engine_accepts(engine: Any, path: Path) -> bool:
    context = engine.gguf_init_from_file(str(path).encode(), _Parameters(True, None))
    if context:
        engine.gguf_free(context)
    return bool(context)


def we_accept(path: Path) -> bool:
    try:
        read_header(path)
    except FileError as error:
        # gguf.cpp leaves it to llama-model-loader.cpp to notice that tensor data is missing.
        return "tensor data are missing" in str(error)
    return True


def test_the_same_verdict_on_damaged_files(engine: Any, tmp_path: Path) -> None:
    sample = header_bytes(
        {
            "general.architecture": "llama",
            "general.alignment": 64,
            "llama.block_count": 2,
            "llama.attention.head_count_kv": [2, 4],
            "llama.rope.freq_base": 1e4,
            "tokenizer.ggml.tokens": ["<s>", "a", "bc"],
            "flags": [True, False],
        },
        [
            Tensor("token_embd.weight", (64, 8), Q4_0),
            Tensor("output_norm.weight", (64,)),
            Tensor("blk.0.attn_q.weight", (256, 4, 2), Q4_K),
            Tensor("blk.0.attn_k.weight", (32, 2), F16),
        ],
    )
    path, chance = tmp_path / "m.gguf", random.Random(5)
    verdicts = {True: 0, False: 0}
    for _ in range(600):
        data = bytearray(sample)
        at = chance.randrange(len(data) - 8)
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                data[at : at + 4] = chance.randrange(64).to_bytes(4, "little")
            case 2:
                data[at : at + 8] = (1 << chance.randrange(64)).to_bytes(8, "little")
            case _:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
        path.write_bytes(data + bytes(8))
        with path.open("r+b") as file:
            file.truncate(len(data) + ROOM)
        ours = we_accept(path)
        assert ours == engine_accepts(engine, path), data.hex()
        verdicts[ours] += 1
    assert min(verdicts.values()) > 90, "both verdicts were put to the test"
