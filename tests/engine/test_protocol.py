"""The messages: what is sent is what arrives, and anything else is an error."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.settings import unusual
from tuner.engine.protocol import (
    Alive,
    AskDevices,
    Cancelled,
    CountTokens,
    DeviceMemory,
    DevicesAsked,
    Done,
    DryRunDone,
    Event,
    Failed,
    Generate,
    Load,
    Loaded,
    LossesMeasured,
    MeasureLosses,
    MeasureSpeed,
    Message,
    Notice,
    Progress,
    Prompt,
    PromptProgress,
    ProtocolError,
    Quit,
    Request,
    Reshape,
    RestoreState,
    Sampling,
    SaveState,
    ShowPrompt,
    SpeedMeasured,
    StateRestored,
    StateSaved,
    Stop,
    Text,
    Timed,
    TokenCount,
    WasThought,
    decode,
    encode,
)
from tuner.memory.cache_losses import CacheLosses, PairLoss
from tuner.memory.footprint import Buffer
from tuner.model.chat_templates import TemplateChoice

SAID = (Message("system", 'ü"\n<'), Message("user", "\u2028"))
BUFFERS = (Buffer("CUDA0", "weights", 1 << 40), Buffer("CPU", "output", 0))
MESSAGES: list[Any] = [
    Load("m.gguf", unusual(), 4, ("host:1", "host:2"), ("CUDA1",), dry=True),
    Generate(SAID, Sampling(0.0, 0.9, 1, 0.1, 7, 100), continue_last=True),
    Generate((), Sampling(), think="low"),
    ShowPrompt("m.gguf", SAID, "off", TemplateChoice("tool_use")),
    Prompt("ü\n", (1, 2), ("ü", "\n"), "file", (), ("off", "on"), "on", ("careful",)),
    AskDevices(("Vulkan0",)), DevicesAsked((DeviceMemory("Vulkan0", 1 << 30, 1 << 34),)),
    CountTokens(SAID), MeasureSpeed(128, (0, 2048), 32, 60.0),
    SpeedMeasured((Timed(0, 128, 1.5, 1.9),), (Timed(128, 32, 0.5, 2.0),), 2),
    MeasureLosses("A text.", 512, 16, 128, 3, (("q8_0", "q8_0"), ("q8_0", "q4_0"))),
    LossesMeasured(CacheLosses((PairLoss("f16", "q4_0", 0.1, 0.1, 0.1, 0.9, 9.5),), 0.0, 12.0, 64)),
    Reshape(unusual(), 1 << 30), SaveState("c.state", 1 << 30), RestoreState("c.state"),
    StateSaved(9, 4096, 0.1), StateRestored(0, 0.1, "it is damaged"),
    Stop(), Quit(), Alive("load", 1.5), Progress(0.5),
    Loaded(512, BUFFERS, 1.5, "file", ("careful",), use_extra_bufts=False),
    DryRunDone(BUFFERS, 0.1), PromptProgress(1, 2), Notice("Careful."), Text("…", 3),
    Text("hm", 1, thought=True), WasThought(),
    Done("end", 10, 5, 3, 0.1, 0.2, 13), TokenCount(9), Failed("refused", "no"), Cancelled(),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_survives_the_wire(message: Any) -> None:
    """One line, nested parts, number and all."""
    line = encode(message, 7)
    assert line.count(b"\n") == 1
    assert decode(line) == (7, message)


def test_no_message_is_forgotten_here() -> None:
    assert {type(m) for m in MESSAGES} == {*get_args(Request), *get_args(Event)}


def test_of_a_prompt_that_was_stopped_only_what_is_there_was_read() -> None:
    assert Done("end", 1000, 400, 5, 1.0, 1.0, 1004).n_read == 600
    assert Done("stopped", 1000, 400, 0, 1.0, 0.0, 650).n_read == 250
    assert Done("stopped", 1000, 400, 0, 1.0, 0.0, 300).n_read == 0  # and went back, too


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[]", b"1", b'"Stop"', b"{}", b'{"type": "Nonsense"}', b'{"type": []}',
        b'{"type": "Progress"}', b'{"type": "Progress", "fraction": "half"}',
        json.dumps({"type": "Load", "path": "m", "settings": {}, "n_threads": 1}).encode(),
    ],
)  # fmt: skip
def test_anything_else_is_an_error(line: bytes) -> None:
    with pytest.raises(ProtocolError, match=r".+"):
        decode(line)


# Every message, filled from the types of its fields. What is no Unicode text cannot be sent.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
st.register_type_strategy(str, TEXT)
st.register_type_strategy(float, st.floats(-1e300, 1e300))
ANY_MESSAGE = st.one_of([st.from_type(kind) for kind in (*get_args(Request), *get_args(Event))])


@given(ANY_MESSAGE, st.integers())
def test_any_message_survives_the_wire(message: Any, number: int) -> None:
    line = encode(message, number)
    assert line.count(b"\n") == 1
    assert decode(line) == (number, message)


@given(st.text())
def test_text_that_is_no_unicode_is_sent_all_the_same(text: str) -> None:
    """A lone surrogate becomes a question mark; the line stays one."""
    _, message = decode(encode(Text(text, 1)))
    assert message.text == text.encode("utf-8", "replace").decode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)
KINDS = st.sampled_from([type(message).__name__ for message in MESSAGES])
NEARLY = st.builds(
    lambda kind, body, number: {**body, "type": kind, "n": number},
    KINDS | JSON,
    st.dictionaries(st.sampled_from(["text", "n_tokens", "fraction", "kind", "settings"]), JSON),
    JSON,
)


@given(st.binary() | st.one_of(JSON, NEARLY).map(lambda value: json.dumps(value).encode()))
def test_any_line_is_a_message_or_the_one_error(line: bytes) -> None:
    try:
        number, message = decode(line)
    except ProtocolError:
        return
    assert type(number) is int
    assert type(message) in {*get_args(Request), *get_args(Event)}


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000, b'{"type":' * 50_000, b'{"type": "Text", "text": "' + b"\xff" * 9,
        b'{"type": ["Text"], "n": 1}', b'{"type": {}, "n": 1}', b"17", b"null", b"1e999",
        b"9" * 10_000, b'{"n": 1e400, "type": "Stop"}', b'{"n": true, "type": "Stop"}',
        b'{"type": "Failed", "kind": [], "message": {}}', b"\x00" * 1000, b"\xef\xbb\xbf{}",
        b'{"type": "Progress", "fraction": NaN}', b'{"type": "TokenCount", "n_tokens": 1.0}',
        b"", b"hello", b"\xff\xfe", b'{"type": ["Done"]}', b'{"type": "Done"}',
        b'{"type": "Failed", "n": 2, "kind": {}, "message": []}',
        b'{"type": "Alive", "doing": 3, "work": "much"}',
    ],
    ids=lambda line: repr(line[:24]),
)  # fmt: skip
def test_garbage_is_the_one_error(line: bytes) -> None:
    """Bombs of brackets, kinds that cannot be looked up, numbers that are none."""
    with pytest.raises(ProtocolError):
        decode(line)
