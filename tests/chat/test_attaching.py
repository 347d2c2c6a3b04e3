"""Files that go along with a question: how they are named, read, sent and shown."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chat.test_composing import drafts
from tui.composing import completion, editor, files
from tui.composing.draft import Draft
from tui.composing.files import AttachError, TextFile, decoded, fence, read, refusal
from tui.composing.mentions import being_typed, dropped, located, mentions, written
from tui.composing.parts import asked, composed, shown

NAMES = st.text(
    st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters="\n\r\x85"), min_size=1
)


@given(NAMES, st.sampled_from(["", "see ", "(", "one\n"]), st.sampled_from(["", " and", "\n"]))
def test_a_name_that_is_written_is_read(name: str, before: str, after: str) -> None:
    text = before + written(name) + after
    (found,) = mentions(text)
    assert found.names[0] == name
    assert text[found.start : found.end] == written(name)


@given(NAMES)
def test_a_mention_is_completed_as_it_is_typed(name: str) -> None:
    typed = written(name) if '"' in name else written(name).removesuffix('"')
    assert being_typed(f"see {typed}") == (4, name)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("@notes.md", [("notes.md",)]),
        ("read @notes.md.", [("notes.md.", "notes.md")]),
        ("(@a, @b/c)!", [("a,", "a"), ("b/c)!", "b/c)", "b/c")]),
        ('@"my notes.md", @my\\ notes.md', [("my notes.md",), ("my notes.md",)]),
        ("me@example.org @ @\n@", []),
        ("@...", [("...", "..", ".")]),
    ],
)
def test_mentions(text: str, names: list[tuple[str, ...]]) -> None:
    assert [mention.names for mention in mentions(text)] == names


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        ("see @", (4, "")),
        ("@src/ma", (0, "src/ma")),
        ('@"my no', (0, "my no")),
        ("@my\\ no", (0, "my no")),
        ("a@b", None),
        ("@done and on", None),
        ('@"done"', None),
    ],
)
def test_what_is_being_typed(line: str, typed: tuple[int, str] | None) -> None:
    assert being_typed(line) == typed


PATHS = NAMES.map(lambda name: "/tmp/" + name.strip()).filter(lambda path: path == path.strip())


@given(st.lists(PATHS, min_size=1, max_size=3))
def test_paths_that_are_dropped_on_a_terminal_are_read(paths: list[str]) -> None:
    forms = (
        " ".join(map(shlex.quote, paths)) + " ",
        "\n".join(f"file://{quote(path)}" for path in paths),
        "\n".join(paths),
    )
    for form in forms:
        assert tuple(paths) in dropped(form)


@given(st.text())
def test_other_pastes_are_no_paths(text: str) -> None:
    """Whatever is pasted, the reading ends, and only what begins as a path is one."""
    for paths in dropped(text):
        assert paths
        assert all(paths)
    assert dropped(f"the {text}") == []


def test_remote_files_are_no_files_here() -> None:
    assert dropped("file://elsewhere/etc/passwd") == []
    assert dropped("file:///C:/my%20notes.md") == [("C:/my notes.md",)]
    assert located("~nobody-of-that-name/x", Path("/w")) == Path("/w/~nobody-of-that-name/x")
    assert located("b.md", Path("/w")) == Path("/w/b.md")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t")))
def test_text_is_read_in_each_encoding(text: str) -> None:
    assert decoded(text.encode()) == (text, "UTF-8")
    assert decoded(text.encode("utf-16")) == (text, "UTF-16")
    assert decoded(text.encode("utf-8-sig")) == (text, "UTF-8")
    assert decoded(text.encode("utf-32")) == (text, "UTF-32")


@given(st.binary())
def test_any_bytes_are_a_text_or_none(raw: bytes) -> None:
    text, name = decoded(raw)
    assert name
    if text is not None and name in ("UTF-8", "Latin-1") and not raw.startswith(b"\xef\xbb\xbf"):
        assert "\0" not in text
        assert "\r" not in text


def test_older_text_and_what_is_none() -> None:
    assert decoded("größer\r\nals".encode("latin-1")) == ("größer\nals", "Latin-1")
    assert decoded(bytes(range(128, 256)))[0] is None
    assert decoded(b"\x89PNG\r\n\x1a\n\0\0")[0] is None
    assert decoded(b"\xff\xfea")[0] is None


def test_files_are_told_by_name_where_they_cannot_go_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(name: str) -> str:
        with pytest.raises(AttachError) as error:
            read(tmp_path / name, name)
        return str(error.value)

    (tmp_path / "a.bin").write_bytes(b"\x7fELF\0\0")
    (tmp_path / "long.txt").write_bytes(b"x" * 1025)
    monkeypatch.setattr(files, "MAX_FILE", 1024)
    assert said("a.bin") == "a.bin is a binary file; only text can go along."
    assert said("long.txt") == "long.txt is too large (1.0 KiB; at most 1.0 KiB)."
    assert said("none.txt") == "none.txt cannot be read (No such file or directory)."
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert "no plain file" in said("pipe")
        with pytest.raises(OSError, match="no plain file"):
            refusal(tmp_path / "pipe")
    assert refusal(tmp_path) == "is a folder"
    assert refusal(tmp_path / "a.bin") == "is a binary file"
    (tmp_path / "long.md").write_text("語" * 9000)  # longer than what is looked at
    assert refusal(tmp_path / "long.md") == ""


def test_what_is_found_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_bytes("# Größe\r\n".encode("utf-16"))
    (tmp_path / "run").write_text("#!/bin/sh\n")
    notes = read(tmp_path / "notes.md", "notes.md")
    assert notes == TextFile("notes.md", "# Größe\n", "Markdown", "UTF-16", 20)
    assert read(tmp_path / "run", "run").kind == "script"
    assert notes.block == "notes.md:\n```markdown\n# Größe\n```"


@given(st.text("`\nab"))
def test_a_fence_is_longer_than_any_in_the_text(text: str) -> None:
    marks = fence(text)
    assert set(marks) == {"`"}
    assert marks not in text
    lines = TextFile("a", text, "text", "UTF-8", 0).block.split("\n")
    assert [n for n, line in enumerate(lines) if line.startswith(marks)] == [1, len(lines) - 1]


FILES = st.lists(
    st.tuples(
        st.builds(TextFile, NAMES, st.text("`x\n"), st.just("text"), st.just("UTF-8"), st.just(7)),
        st.none() | st.integers(0, 5000),
    ),
    max_size=2,
)


@given(drafts(), FILES)
def test_a_question_is_shown_and_asked_again_as_it_was_written(
    draft: Draft, attached: list[tuple[TextFile, int | None]]
) -> None:
    """The model sees all of the text; the reader sees labels, and the walk back through the
    history finds the draft."""
    question = composed(draft, attached)
    assert question.content.startswith(draft.whole)
    assert all(file.block in question.content for file, _ in attached)
    if not question.parts:
        assert shown(question.content, None) == question.content
    back = asked(question.content, question.parts)
    assert back.whole == draft.whole
    seen = shown(question.content, question.parts)
    assert all(f"[{file.name}, 7 B" in seen for file, _ in attached)
    assert seen.count("x") <= question.content.count("x") + sum(
        f.name.count("x") for f, _ in attached
    )


def test_the_chip_of_a_file() -> None:
    file = TextFile("notes.md", "x\n" * 2000, "Markdown", "UTF-8", 3174)
    question = composed(Draft("Sum up @notes.md"), [(file, 812)])
    assert shown(question.content, question.parts) == (
        "Sum up @notes.md\n[notes.md, 3.1 KiB, 812 tokens]"
    )
    assert asked(question.content, question.parts) == Draft("Sum up @notes.md")


@pytest.mark.parametrize(
    "parts",
    [
        "", "{", "7", "[1]", "[[0, 99, \"x\", true]]", "[[2, 1, \"x\", true]]", "[" * 5000,
        "[[0, 1, \"\", true]]", "[[0, 1, \"a\\nb\", true]]", "[[0, true, \"x\", true]]",
        "[[0, 1, \"x\", 1]]", "[[0, 2, \"x\", true], [1, 3, \"y\", true]]", "{\"a\": 1}",
    ],
)  # fmt: skip
def test_damaged_parts_hide_nothing(parts: str) -> None:
    assert shown("the text", parts) == "the text"


def test_names_are_offered(tmp_path: Path) -> None:
    for name in ("notes.md", "Nothing.txt", ".hidden", "keynote", "bad\x1b.md"):
        (tmp_path / name).write_text("")
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested" / "in.py").write_text("")

    def offered(typed: str) -> list[str]:
        return [choice.text for choice in completion.names(typed, tmp_path)]

    assert offered("no") == ["Nothing.txt", "notes.md", "keynote"]
    assert offered("n") == ["nested/", "Nothing.txt", "notes.md", "keynote"]
    assert offered("nested/") == ["nested/in.py"]
    assert offered(".h") == [".hidden"]
    assert offered(f"{tmp_path}/nested/i") == [f"{tmp_path}/nested/in.py"]
    assert offered("bad") == offered("none/x") == offered("notes.md/") == offered("\0/") == []


def test_what_is_offered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(60):
        (tmp_path / f"{n}").write_text("")
    assert len(completion.names("", tmp_path)) == completion.MOST
    monkeypatch.setattr(completion, "MOST_SEEN", 10)
    assert len(completion.names("", tmp_path)) == 10


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_editor_is_given_the_draft(tmp_path: Path) -> None:
    """In a file of the user's own, which is gone afterwards."""
    seen = tmp_path / "seen"
    script = tmp_path / "my editor"
    script.write_text(
        f'#!/bin/sh\nstat -c "%a %n" "$2" > {seen}\ncat "$2" >> {seen}\necho more >> "$2"\n'
    )
    script.chmod(0o700)
    command = editor.editor({"VISUAL": f"'{script}' --wait", "EDITOR": "other"})
    assert editor.edited("a draft\n\x1b", command) == "a draft\n␛more"
    facts, *text = seen.read_text().split("\n")
    mode, path = facts.split(" ", 1)
    assert (int(mode, 8), text) == (stat.S_IRUSR | stat.S_IWUSR, ["a draft", "\x1b"])
    assert not os.path.exists(path)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX commands")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("false", "false ended with 1; the draft is as it was."),
        ("/no/such-editor", "/no/such-editor cannot be used (No such file or directory)"),
        ("sh -c 'kill -9 $$'", "sh was ended by signal 9"),
    ],
)
def test_an_editor_that_fails_says_so_in_a_sentence(command: str, said: str) -> None:
    with pytest.raises(editor.EditorError) as error:
        editor.edited("a draft", editor.editor({"EDITOR": command}))
    assert str(error.value).startswith(said)


def test_the_pager_is_given_what_may_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No escape of a model's reaches it, which may obey them (less -R)."""
    script = tmp_path / "less"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/args\ncat > {tmp_path}/shown\n')
    script.chmod(0o755)
    monkeypatch.setenv("LESS", "-FRX")
    editor.paged("a \x1b[31mred\nb", editor.pager({"PAGER": f"'{script}' -N"}))
    assert (tmp_path / "shown").read_text() == "a ␛[31mred\nb"
    assert (tmp_path / "args").read_text() == "-N -+F\n"
    assert editor.pager({"PATH": str(tmp_path)}) == [str(script), "-R"]
    with pytest.raises(editor.EditorError, match="set \\$PAGER"):
        editor.pager({"PATH": "/nowhere"})
    with pytest.raises(editor.EditorError, match="false ended with 1"):
        editor.paged("text", ["false"])


def test_which_editor() -> None:
    with pytest.raises(editor.EditorError, match="is no command"):
        editor.editor({"EDITOR": "vi 'x"})
    with pytest.raises(editor.EditorError, match="set \\$EDITOR"):
        editor.editor({"PATH": "/nowhere"})
    assert json.dumps(editor.editor({"VISUAL": " ", "EDITOR": "code -w"})) == '["code", "-w"]'
