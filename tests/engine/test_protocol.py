"""The messages: what is sent is what arrives, and anything else is an error."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from tests.support.settings import unusual
from tuner.engine.protocol import (
    Cancelled,
    CountTokens,
    Done,
    DryRunDone,
    Event,
    Failed,
    Generate,
    Load,
    Loaded,
    Message,
    Progress,
    PromptProgress,
    Quit,
    Request,
    Sampling,
    Stop,
    Text,
    TokenCount,
    decode,
    encode,
)
from tuner.memory.footprint import Buffer

SAID = (Message("system", 'ü"\n<'), Message("user", "\u2028"))
BUFFERS = (Buffer("CUDA0", "weights", 1 << 40), Buffer("CPU", "output", 0))
MESSAGES: list[Any] = [
    Load("m.gguf", unusual(), 4, ("host:1", "host:2"), ("CUDA1",), dry=True),
    Generate(SAID, Sampling(0.0, 0.9, 1, 0.1, 7, 100), continue_last=True),
    Generate((), Sampling()),
    CountTokens(SAID), Stop(), Quit(), Progress(0.5),
    Loaded(512, BUFFERS, 1.5, "file", ("careful",), use_extra_bufts=False),
    DryRunDone(BUFFERS, 0.1), PromptProgress(1, 2), Text("…", 3),
    Done("end", 10, 5, 3, 0.1, 0.2, 13), TokenCount(9), Failed("refused", "no"), Cancelled(),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_survives_the_wire(message: Any) -> None:
    """One line, nested parts and all."""
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_no_message_is_forgotten_here() -> None:
    assert {type(m) for m in MESSAGES} == {*get_args(Request), *get_args(Event)}


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[]", b"1", b'"Stop"', b"{}", b'{"type": "Nonsense"}', b'{"type": []}',
        b'{"type": "Progress"}', b'{"type": "Progress", "fraction": "half"}',
        json.dumps({"type": "Load", "path": "m", "settings": {}, "n_threads": 1}).encode(),
    ],
)  # fmt: skip
def test_anything_else_is_an_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(line)
