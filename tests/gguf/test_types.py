"""The table of tensor types says what the engine and the gguf package say."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gguf_files import tiny_llama
from tuner.gguf import package_names
from tuner.gguf.types import FILE_TYPES, GGML_TYPES


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


def test_file_types_are_those_of_gguf() -> None:
    """The table written down equals the package's."""
    constants = pytest.importorskip("gguf.constants")
    theirs = {
        int(t): t.name.removeprefix("MOSTLY_").removeprefix("ALL_") for t in constants.LlamaFileType
    }
    assert {k: v for k, v in FILE_TYPES.items() if k in theirs and theirs[k] != v} == {}
    assert set(theirs) - set(FILE_TYPES) <= {1024}


def test_the_package_names_what_the_tables_lack() -> None:
    """It says the same of what both know, and nothing of what nobody does."""
    pytest.importorskip("gguf")
    tensor_types = {n: package_names.tensor_type(n) for n in GGML_TYPES}
    file_types = {n: package_names.file_type(n) for n in FILE_TYPES}
    missing = [n for found in (tensor_types, file_types) for n, name in found.items() if not name]
    assert missing == [42, 41]  # q2_0, which the engine is ahead with
    for found, table in (
        (tensor_types, {n: kind.name.lower() for n, kind in GGML_TYPES.items()}),
        (file_types, {n: name.lower() for n, name in FILE_TYPES.items()}),
    ):
        assert {n: name.lower() for n, name in found.items() if name}.items() <= table.items()
    assert package_names.tensor_type(9999) is package_names.file_type(9999) is None
    assert package_names.is_architecture("llama")
    assert not package_names.is_architecture("of tomorrow")


def test_a_header_is_read_without_the_package(tmp_path: Path) -> None:
    """Importing it takes ten times as long as that."""
    path = tiny_llama(tmp_path / "m.gguf", {"general.file_type": 15})
    code = (
        "import sys; from tuner.gguf import read_header; from tuner.model import describe;"
        "describe(read_header(sys.argv[1])); sys.exit(bool({'gguf', 'numpy'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0
