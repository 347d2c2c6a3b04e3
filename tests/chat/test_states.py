"""What the model had read of each conversation, on disk: how much, for how long, for whom."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tui.command.options import keep_states, parser
from tui.storage import Conversation, Conversations, StoredMessage
from tui.storage.records import DELETED
from tui.storage.states import LEAST_AGE, USUAL_BYTES, States
from tuner.units import GIB, size_text


def saved(states: States, conversation_id: str, n_bytes: int, age: float = 0.0) -> Path:
    """A state that was used so many seconds ago."""
    states.make_room(conversation_id, n_bytes)
    path = states.path(conversation_id)
    path.write_bytes(bytes(n_bytes))
    os.utime(path, (time.time() - age,) * 2)
    return path


def there(states: States) -> set[str]:
    return {path.name for path in states.folder.iterdir()}


def talk(store: Conversations, conversation_id: str) -> StoredMessage:
    message = StoredMessage(f"{conversation_id}-1", None, "user", "Hello", 1.0)
    store.save(Conversation(conversation_id, "Hello", 1.0, 1.0, head=message.id), [message])
    return message


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    """Before one is saved, so that the bound holds while it is; what is used again is the last."""
    states = States(tmp_path / "states", 1000)
    for n, age in (("a", 30), ("b", 20), ("c", 10)):
        saved(states, n, 300, age)
    states.used("a")
    assert states.make_room("d", 400) == 1000
    assert there(states) == {"a.state", "c.state"}
    states.make_room("c", 700)  # its own is written over
    assert there(states) == {"a.state", "c.state"}
    saved(states, "c", 900)
    states.keep_to_bound()
    assert there(states) == {"c.state"}
    if sys.platform != "win32":
        assert stat.S_IMODE(states.folder.stat().st_mode) == 0o700


def test_the_usual_bound_is_a_share_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what would be free without them; whatever is asked for, half of what is free stays so."""
    states, free = States(tmp_path / "states"), [100 * GIB]
    usage = type("Usage", (), {"free": property(lambda _: free[0])})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage())
    assert states.make_room("a", 0) == 4 * GIB
    saved(states, "a", 1000)
    free[0] = 9000
    assert states.make_room("b", 0) == 1000
    states.most_bytes = 100 * GIB
    assert states.make_room("b", 0) == 4500


def test_a_state_goes_with_what_it_was_read_of(store: Conversations) -> None:
    """With its conversation, and with a message of it, whose words are in it."""
    other = talk(store, "beef")
    talk(store, "c0ffee")
    saved(store.states, "c0ffee", 10)
    saved(store.states, "beef", 10)
    store.delete("c0ffee")
    assert there(store.states) == {"beef.state"}
    store.save(Conversation("beef", "", 1.0, 1.0), [replace(other, content="", state=DELETED)])
    assert there(store.states) == set()


def test_only_old_orphans_are_swept(store: Conversations, tmp_path: Path) -> None:
    """Those of no conversation, and what was left half written: another kvchat may be at it, unless
    the process is gone that was. Not, where the store cannot tell which conversations there are."""
    talk(store, "beef")
    states, old = store.states, 2 * LEAST_AGE
    for name, age in (("beef", old), ("dead", old), ("0new", 0.0)):
        saved(states, name, 10, age)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = f"moving-{os.getpid()}.state"
    for name, age in ((f"beef.state.{os.getpid()}.new", old), (here, 0.0)):
        (states.folder / name).write_bytes(b"half")
        os.utime(states.folder / name, (time.time() - age,) * 2)
    for name in (f"beef.state.{gone.pid}.new", f"moving-{gone.pid}.state"):
        (states.folder / name).write_bytes(b"half")
    in_memory = Conversations.open(tmp_path)  # a folder: no store
    in_memory.states = states
    in_memory.sweep_states()
    assert len(there(states)) == 7
    store.sweep_states()
    on_windows = there(states) if os.name == "nt" else set()
    assert there(states) - on_windows == {"beef.state", "0new.state", here} - on_windows
    states.most_bytes = 0
    assert not states.has("beef")
    store.sweep_states()  # what is turned off takes no disk
    assert there(states) - on_windows == {here} - on_windows


def test_how_much_is_kept_is_a_flag() -> None:
    """Whose help says what is usual."""
    parsed = [parser().parse_args(["--keep-states", text]) for text in ("off", "0", "2GiB")]
    assert [keep_states(args) for args in parsed] == [0, 0, 2 * GIB]
    assert keep_states(parser().parse_args([])) is None
    assert size_text(USUAL_BYTES) in parser().format_help()


@pytest.mark.parametrize("conversation_id", ["", "../conversations", "a/b", "x" * 65, "a.b"])
def test_a_state_lies_in_its_folder(store: Conversations, conversation_id: str) -> None:
    """Whatever a damaged store says the id is."""
    with pytest.raises(OSError, match="no state"):
        store.states.path(conversation_id)
    assert not store.states.has(conversation_id)
    store.states.delete(conversation_id)
    assert store.path.exists()
