"""The user's own files: for nobody else, and never through somebody's link."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gguf_files import tiny_llama
from tests.support.scripted_worker import scripted_worker
from tui.command.cli import main
from tui.key_file import read_keymap
from tui.storage import Conversations
from tuner.engine import client as engine_client
from tuner.engine.client import EngineClient
from tuner.engine.log import note, open_log
from tuner.private_files import kvchat_folder, open_private, private_folder, read_bounded
from tuner.profiles.profiles import Profiles

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_and_close(path: Path) -> None:
    os.close(open_private(path, os.O_RDWR))


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_device(path: Path) -> None:
    path.symlink_to("/dev/full")


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def a_file_above(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("in the way")


IN_THE_WAY = [a_pipe, a_folder, a_device, a_loop, a_file_above]


def test_folders_and_files_are_the_user_s_alone(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "a" / "b")
    assert (mode(folder), mode(folder.parent)) == (0o700, 0o700)
    (folder / "old").write_text("x")
    (folder / "old").chmod(0o644)
    for name in ("old", "new"):
        open_and_close(folder / name)
        assert mode(folder / name) == 0o600
    tmp_path.chmod(0o755)
    private_folder(tmp_path)
    assert mode(tmp_path) == 0o755, "a folder that was stated is not ours to change"


def test_a_folder_of_an_older_version_is_closed_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is kvchat's own and the user's; a link in its place may lead to what others share,
    and what lies above it is not ours."""
    for name in (*os.environ,):
        if name.startswith(("KVCHAT_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = [kvchat_folder("data"), kvchat_folder("config"), kvchat_folder("config") / "profiles"]
    shared = tmp_path / "shared"
    for folder in (*made, shared):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
    made[0].parent.chmod(0o755)
    Conversations.open().close()
    private_folder(made[2])
    assert [mode(folder) for folder in made] == [0o700] * 3
    assert mode(made[0].parent) == 0o755
    log = kvchat_folder("log")
    private_folder(log.parent)
    log.symlink_to(shared)
    private_folder(log)
    assert mode(shared) == 0o755


@pytest.mark.parametrize("way", IN_THE_WAY)
def test_only_plain_files_are_opened(tmp_path: Path, way: Callable[[Path], None]) -> None:
    """At once: a pipe is not waited for."""
    path = private_folder(tmp_path / "own") / "file"
    way(path)
    with pytest.raises(OSError, match=r".+"):
        open_and_close(path)
    with pytest.raises(OSError, match=r".+"):
        read_bounded(path, 10)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_in_a_shared_folder_no_link_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: Callable[[Path, Path], None]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(private_folder(tmp_path / "temporary")))
    victim = tmp_path / "victim"
    victim.write_text("mine")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link(victim, shared / "engine.log")
    with pytest.raises(OSError, match=r".+"):
        open_and_close(shared / "engine.log")
    path, log, problem = open_log(shared / "engine.log")
    with log:
        log.write(b"x")
    assert path.parent != shared
    assert "cannot be written" in problem
    note(shared / "engine.log", "more")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("way", IN_THE_WAY)
def test_a_log_that_cannot_be_written_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[Path], None]
) -> None:
    """A private one in the temporary folder; the model process starts all the same."""
    monkeypatch.setattr("tempfile.tempdir", str(private_folder(tmp_path / "temporary")))
    path = private_folder(tmp_path / "log") / "engine.log"
    way(path)
    with EngineClient(path, command=scripted_worker()) as client:
        note(client.log_path, "x")
    where, log, problem = open_log(path)
    log.close()
    assert where.parent == tmp_path / "temporary"
    assert mode(where) == 0o600
    assert str(path) in problem
    assert str(where) in problem
    # Nowhere at all: nothing is written, and that is said.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    where, log, problem = open_log(path)
    log.close()
    assert where == Path(os.devnull)
    assert "there is none" in problem


@pytest.mark.parametrize("way", [a_pipe, a_folder, a_device, a_loop])
def test_settings_that_cannot_be_read_are_told(tmp_path: Path, way: Callable[[Path], None]) -> None:
    """Neither waited for nor read without an end."""
    private_folder(tmp_path / "profiles")
    way(tmp_path / "keys.toml")
    way(tmp_path / "machine-desk.json")
    way(tmp_path / "profiles" / "tiny.json")
    (problem,) = read_keymap(tmp_path)[1]
    assert "cannot be read" in problem
    profiles = Profiles(tmp_path, machine="desk")
    profiles.machine_facts()
    assert profiles.list() == ()
    assert len(profiles.warnings) == 2
    store = tmp_path / "conversations.db"
    way(store)
    opened = Conversations.open(store)
    assert not opened.saved
    assert "will not be saved" in (opened.warning or "")


@pytest.mark.parametrize("bad", [("LOG",), ("CONFIG",), ("DATA",), ("LOG", "CONFIG", "DATA")])
def test_a_home_that_cannot_be_written_is_no_reason_not_to_answer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bad: tuple[str, ...],
) -> None:
    """-p answers, and says what could not be kept."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("tempfile.tempdir", str(private_folder(tmp_path / "temporary")))
    for name in bad:
        monkeypatch.setenv(f"KVCHAT_{name}_DIR", str(tmp_path / "file" / "folder"))
    command = scripted_worker(text="An answer. " * 40)
    monkeypatch.setattr(engine_client, "WORKER_COMMAND", command)
    monkeypatch.setattr("sys.stdin", None)
    assert main([str(tiny_llama(tmp_path / "tiny.gguf")), "-p", "hi"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("An answer.")
    assert ("log cannot be written" in err) == ("LOG" in bad)
    assert ("could not be saved" in err) == ("CONFIG" in bad)
    assert [*(tmp_path / "temporary").iterdir()] == [], "all went well: nobody needs the log"


def test_a_log_that_an_error_names_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the temporary folder as well: it may say what happened."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("tempfile.tempdir", str(private_folder(tmp_path / "temporary")))
    monkeypatch.setenv("KVCHAT_LOG_DIR", str(tmp_path / "file" / "folder"))
    command = scripted_worker(fail_load="load_failed:no")
    monkeypatch.setattr(engine_client, "WORKER_COMMAND", command)
    monkeypatch.setattr("sys.stdin", None)
    assert main([str(tiny_llama(tmp_path / "tiny.gguf")), "-p", "hi"]) == 5
    (log,) = (tmp_path / "temporary").iterdir()
    assert f"the engine's log is {log}" in capsys.readouterr().err


def test_what_a_run_leaves_is_the_user_s_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Log, profile, facts, database, and every folder that was made for them."""
    old = os.umask(0)
    try:
        monkeypatch.setattr(engine_client, "WORKER_COMMAND", scripted_worker())
        monkeypatch.setattr("sys.stdin", None)
        assert main([str(tiny_llama(tmp_path / "tiny.gguf")), "-p", "hi"]) == 0
        store = Conversations.open()
        store.list()
        made = [p for name in ("config", "log", "data") for p in (tmp_path / name).rglob("*")]
    finally:
        os.umask(old)
    assert {p.suffix for p in made if p.is_file()} >= {".json", ".log", ".db", ".db-wal"}
    for path in (*made, *(tmp_path / name for name in ("config", "log", "data"))):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    store.close()
