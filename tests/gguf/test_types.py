"""The table of tensor types says what the engine and the gguf package say."""

from __future__ import annotations

import ctypes
import sys

import pytest

from tuner.gguf.types import GGML_TYPES


def test_the_engine_agrees() -> None:
    pytest.importorskip("llama_cpp")
    name = {"win32": "ggml-base.dll", "darwin": "libggml-base.0.dylib"}.get(
        sys.platform, "libggml-base.so.0"
    )
    try:
        lib = ctypes.CDLL(name)
    except OSError:
        pytest.skip(f"{name} cannot be opened by its name here")
    lib.ggml_type_name.restype = ctypes.c_char_p
    lib.ggml_blck_size.restype = ctypes.c_int64
    lib.ggml_type_size.restype = ctypes.c_size_t
    engine = {
        number: (lib.ggml_type_name(number).decode(), lib.ggml_blck_size(number), size)
        for number in range(43)  # GGML_TYPE_COUNT; from there on the engine aborts
        if (size := lib.ggml_type_size(number))
    }
    assert {number: tuple(form) for number, form in GGML_TYPES.items()} == engine


def test_the_gguf_package_agrees() -> None:
    gguf = pytest.importorskip("gguf")
    q8_1 = 9  # the package says 40 bytes; block_q8_1 in ggml-common.h has 36. Never in files.
    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        if kind.value != q8_1:
            assert GGML_TYPES[kind.value][1:] == sizes, kind
