"""The table of architectures is the one place that knows them by name."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import tuner
from tests.support.headers import unpacked
from tuner.gguf.header import read_header
from tuner.model.architectures import GENERAL, KNOWN, ROWS, architecture
from tuner.model.chat_models import EMBEDDING, OTHERS

_TUNER = Path(tuner.__file__).parent


def _constants(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def test_no_other_file_names_an_architecture() -> None:
    """A rule that an architecture follows is a column of the table, never a comparison with its
    name: what differs is then seen in one row."""
    files = defaultdict(set)
    for path in _TUNER.rglob("*.py"):
        for name in _constants(path) & KNOWN:
            files[name].add(path.relative_to(_TUNER).as_posix())
    assert set(files) == KNOWN
    assert {name: where for name, where in files.items() if len(where) > 1} == {}
    assert {where for found in files.values() for where in found} == {"model/architectures.py"}


def test_an_architecture_has_one_row() -> None:
    assert {name for name, rows in Counter(row.name for row in ROWS).items() if rows > 1} == set()
    assert all(architecture(name).name == name for name in KNOWN)
    assert KNOWN.isdisjoint(EMBEDDING | set(OTHERS))


def test_a_name_that_is_not_in_the_table_reads_whatever_its_file_states() -> None:
    """All that any known architecture reads of caches and states that are not its own."""
    row = architecture("of tomorrow")
    assert (row.name, row.known, row.memory) == ("of tomorrow", False, "stated")
    read = {group for name in KNOWN for group in architecture(name).reads}
    assert read - GENERAL.reads == {"ngrams", "clamps", "loops", "shared_kv", "rescaling"}


def test_the_gguf_package_knows_no_other_architecture() -> None:
    names = set(pytest.importorskip("gguf").MODEL_ARCH_NAMES.values())
    assert names <= KNOWN | EMBEDDING | set(OTHERS)


def test_all_but_a_few_are_in_the_archive_of_engine_sizes() -> None:
    """Those few are none of llama.cpp's own test models, of which the archive is made."""
    found = {read_header(p).metadata["general.architecture"] for p in unpacked()[0].values()}
    assert KNOWN - found == {
        "arwkv7", "deepseek2-ocr", "gemma4", "graniteswitch", "plm", "rwkv6qwen2", "rwkv7",
    }  # fmt: skip
