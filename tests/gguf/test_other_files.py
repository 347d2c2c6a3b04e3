"""What people give in place of a whole model file: each kind gets its own right next step, and
"download it again" is said of bytes alone that are missing or that no file could have."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.gguf_files import (
    Tensor,
    header_bytes,
    tiny_llama,
    write_gguf,
    write_split,
)
from tuner.errors import FileError
from tuner.gguf.foreign_types import FOREIGN_TYPES, MAX_TYPE
from tuner.gguf.header import models_of, read_header
from tuner.gguf.pieces import UNFINISHED
from tuner.gguf.types import GGML_TYPES

AGAIN = "download it again"


def refusal(path: Path) -> FileError:
    with pytest.raises(FileError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert message.endswith(".")
    return caught.value


# ---------------------------------------------------------------- of other programs

TYPES = sorted({row.number for row in FOREIGN_TYPES} - GGML_TYPES.keys())


def of_type(folder: Path, number: int) -> FileError:
    path = folder / "m.gguf"
    path.write_bytes(header_bytes({}, [Tensor("blk.0.x", (256,), number)]) + bytes(512))
    return refusal(path)


@pytest.mark.parametrize("number", TYPES)
def test_a_type_of_another_program_is_named_with_what_to_do(tmp_path: Path, number: int) -> None:
    error = of_type(tmp_path, number)
    assert error.kind == "incompatible"
    for row in FOREIGN_TYPES:
        if row.number == number:
            assert f"{row.name}, {row.origin.whose}" in str(error)
    assert AGAIN not in str(error)
    assert "damaged" not in str(error)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (144, ("IQ4_KS", "ik_llama.cpp", "Q4_K_M")),
        (36, ("I2_S", "bitnet.cpp", "IQ4_NL_4_4", "removed")),
        (31, ("Q4_0_4_4", "removed from llama.cpp", "Q4_0 file")),
        (43, ("newer", "update kvchat")),
    ],
)
def test_what_reports_were_about(tmp_path: Path, number: int, words: tuple[str, ...]) -> None:
    message = str(of_type(tmp_path, number))
    assert all(word in message for word in words)


@given(number=st.integers(0, MAX_TYPE).filter(lambda n: n not in GGML_TYPES))
@settings(max_examples=60)
def test_no_type_of_its_own_makes_a_file_damaged(
    tmp_path_factory: pytest.TempPathFactory, number: int
) -> None:
    error = of_type(tmp_path_factory.getbasetemp(), number)
    assert error.kind == "incompatible"
    assert f"type {number}" in str(error)


def test_the_engines_own_types_are_no_foreign_ones() -> None:
    """A later llama.cpp may give out a number that another program uses: the rows must know."""
    gguf = pytest.importorskip("gguf")
    theirs = {int(kind) for kind in gguf.GGMLQuantizationType}
    assert theirs & {row.number for row in FOREIGN_TYPES} == {39}
    assert len({(row.number, row.name) for row in FOREIGN_TYPES}) == len(FOREIGN_TYPES)


def test_a_number_that_two_programs_gave_out_is_told_by_the_lengths(tmp_path: Path) -> None:
    """bitnet.cpp's TL2 has the number of MXFP4, but other lengths."""
    sound = write_gguf(tmp_path / "m.gguf", {}, [])
    tensors = [Tensor("a", (256,), 39, offset=0), Tensor("b", (8,), offset=96)]
    sound.write_bytes(header_bytes({}, tensors) + bytes(4096))
    error = refusal(sound)
    assert error.kind == "incompatible"
    assert "TL2, of bitnet.cpp" in str(error)


# ---------------------------------------------------------------- byte pieces

NAMES: dict[str, Callable[[str, int, int], str]] = {
    "part1of2": lambda stem, i, n: f"{stem}.gguf.part{i + 1}of{n}",
    "part-1-of-2": lambda stem, i, n: f"{stem}.gguf.part-{i + 1}-of-{n}",
    "part01of10": lambda stem, i, n: f"{stem}.gguf.part{i + 1:02d}of{n:02d}",
    "partaa": lambda stem, i, n: f"{stem}.gguf.parta{chr(97 + i)}",
    "part-a": lambda stem, i, n: f"{stem}.gguf-part-{chr(97 + i)}",
    "split-a": lambda stem, i, n: f"{stem}.gguf-split-{chr(97 + i)}",
    "part-00": lambda stem, i, n: f"{stem}.gguf.part-{i:02d}",
    "part1": lambda stem, i, n: f"{stem}.gguf.part{i + 1}",
    "001": lambda stem, i, n: f"{stem}.gguf.{i + 1:03d}",
    "aa": lambda stem, i, n: f"{stem}.gguf.a{chr(97 + i)}",
    "part1 before the end": lambda stem, i, n: f"{stem}.part{i + 1}of{n}.gguf",
    "1-of-2": lambda stem, i, n: f"{stem}.gguf-{i + 1}-of-{n}",
    "like a part": lambda stem, i, n: f"{stem}-{i + 1:05d}-of-{n:05d}.gguf",
    "end twice": lambda stem, i, n: f"{stem}.gguf.part{i + 1}of{n}.gguf",
    "xaa": lambda stem, i, n: f"xa{chr(97 + i)}",
    "part_1": lambda stem, i, n: f"{stem}.gguf.part_{i + 1}",
    "upper case": lambda stem, i, n: f"{stem}.GGUF.PART{i + 1}OF{n}",
}
STEMS = ("Sample-13B.Q8_0", "it's a model", "größe $HOME `x`", "-dash", "b\udcff")


def cut(folder: Path, name: Callable[[str, int, int], str], stem: str, n: int) -> list[Path]:
    """A model cut into `n` pieces of bytes."""
    whole = tiny_llama(folder / "whole").read_bytes()
    (folder / "whole").unlink()
    step = -(-len(whole) // n)
    paths = [folder / name(stem, i, n) for i in range(n)]
    for i, path in enumerate(paths):
        path.write_bytes(whole[i * step : (i + 1) * step])
    return paths


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_the_command_that_joins_pieces_makes_the_model(
    tmp_path: Path, name: Callable[[str, int, int], str]
) -> None:
    """Whichever piece is given, however it is called, and whatever the name has that a shell
    would read."""
    if os.name == "nt":
        pytest.skip("cat is another command here")
    for number, stem in enumerate(STEMS):
        folder = tmp_path / str(number)
        folder.mkdir()
        n = 2 + number
        paths = cut(folder, name, stem, n)
        messages = set()
        for i, path in enumerate(paths):
            error = refusal(path)
            assert error.kind == "in_pieces"
            what, _, rest = str(error).removeprefix(str(path)).partition("; join them with `")
            assert f"piece {i + 1} of" in what
            messages.add(rest)
        (message,) = messages
        command = message.rpartition("`, then name ")[0]
        assert command.isprintable()
        subprocess.run(["bash", "-c", command], check=True, cwd=folder)
        joined = next(p for p in folder.iterdir() if p not in paths)
        assert read_header(joined).metadata["general.name"] == "tiny"
        assert f"name {joined}" in str(refusal(paths[0])), "it is not to be joined twice"


def test_as_many_pieces_as_split_makes(tmp_path: Path) -> None:
    """After az comes ba; and no more than a sentence names them where one is missing."""
    path = tiny_llama(tmp_path / "m.gguf")
    subprocess.run(["split", "-b", "30000", path, f"{path}."], check=True)
    pieces = sorted(tmp_path.glob("m.gguf.??"))
    assert pieces[-1].name > "m.gguf.ba"
    path.rename(tmp_path / "same")
    (tmp_path / "m.gguf.md").touch()
    message = str(refusal(pieces[3]))
    assert all(f"{piece} " in message for piece in pieces)
    assert "m.gguf.md" not in message
    pieces[20].unlink()
    assert f"{pieces[20].name} is missing" in str(refusal(pieces[0]))


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_missing_piece_is_named(tmp_path: Path, gone: int) -> None:
    paths = cut(tmp_path, NAMES["part1of2"], "m", 3)
    paths[gone].unlink()
    message = str(refusal(paths[(gone + 1) % 3]))
    assert f"{paths[gone].name} is missing beside it" in message


@pytest.mark.parametrize("keep", [60, -8])
@pytest.mark.parametrize("alone", [False, True])
def test_a_cut_part_of_a_split_model_is_no_piece(tmp_path: Path, keep: int, alone: bool) -> None:
    """Its name has the same form, but the other parts begin as GGUF files."""
    there = parts(tmp_path)
    there[0].write_bytes(there[0].read_bytes()[:keep])
    for path in there[1:] if alone else ():
        path.unlink()
    assert refusal(there[0]).kind in ("truncated", "missing_part")
    assert "cut into pieces" not in str(refusal(there[0]))


def test_a_whole_model_may_be_named_like_a_piece(tmp_path: Path) -> None:
    for name in ("m.gguf.part1of2", "m.gguf.1", "m.gguf.aa"):
        assert read_header(tiny_llama(tmp_path / name)).tensors


@pytest.mark.parametrize(
    "name", ["m.gguf.1", "m.gguf.2026", "m.gguf.bak", "m-split-up.gguf", "n" * 255]
)
def test_what_is_no_piece_by_its_name(tmp_path: Path, name: str) -> None:
    """wget counts what it fetches twice."""
    for other in ("m.gguf.md", "m.gguf.txt"):
        (tmp_path / other).touch()
    path = tiny_llama(tmp_path / name)
    os.truncate(path, path.stat().st_size - 1000)
    assert refusal(path).kind == "truncated"
    assert AGAIN in str(refusal(path))


# ---------------------------------------------------------------- downloads that go on


@pytest.mark.parametrize("end", [*UNFINISHED, "-partial-3", ".CRDOWNLOAD"])
def test_an_unfinished_download_is_to_be_finished(tmp_path: Path, end: str) -> None:
    """Also one of full size: programs that fetch in pieces make room first."""
    for size in (1000, None):
        path = tiny_llama(tmp_path / f"m.gguf{end}")
        if size:
            os.truncate(path, size)
        error = refusal(path)
        assert error.kind == "truncated"
        assert "has not finished" in str(error)
        assert "damaged" not in str(error)
        assert AGAIN not in str(error)


def test_the_notes_of_a_download_beside_a_file(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf")
    (tmp_path / "m.gguf.aria2").touch()
    assert "aria2c" in str(refusal(path))
    (tmp_path / "m.gguf.aria2").rename(tmp_path / "m.gguf.part")
    assert read_header(path).tensors, "a whole file is whole"
    path.write_bytes(b"")
    assert "m.gguf.part beside it" in str(refusal(path))
    path.unlink()
    assert "m.gguf.part is a download that has not finished" in str(refusal(path))


# ---------------------------------------------------------------- parts of split models


def parts(folder: Path) -> list[Path]:
    keys = {"general.architecture": "llama", "general.name": "Big"}
    tensors = [[Tensor("a", (64,))], [Tensor("b", (32,)), Tensor("c", (8,))], [Tensor("d", (16,))]]
    return write_split(folder, "big", keys, tensors)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 1), (1, 0), (1, 2)])
@pytest.mark.parametrize("name", ["big.gguf", "big-00001-of-00003.gguf"])
def test_parts_that_were_glued_together(tmp_path: Path, order: tuple[int, ...], name: str) -> None:
    there = parts(tmp_path)
    glued = tmp_path / "glued" / name
    glued.parent.mkdir()
    glued.write_bytes(b"".join(there[i].read_bytes() for i in order))
    error = refusal(glued)
    assert error.kind == "in_pieces"
    assert "glued together" in str(error)
    assert "llama-gguf-split --merge" in str(error)


def test_a_first_part_without_tensors_that_was_glued(tmp_path: Path) -> None:
    keys = {"general.architecture": "llama"}
    there = write_split(tmp_path, "m", keys, [[], [Tensor("a", (64,))]])
    glued = tmp_path / "glued.gguf"
    glued.write_bytes(there[0].read_bytes() + bytes(8) + there[1].read_bytes())
    assert "glued together" in str(refusal(glued))


def test_what_follows_a_whole_model_is_ignored(tmp_path: Path) -> None:
    """As llama.cpp does."""
    path = tiny_llama(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes() * 2)
    assert read_header(path).tensors


def test_a_link_to_a_part_leads_to_the_others(tmp_path: Path) -> None:
    """In Hugging Face's cache each part is a link to a blob; or the link has a name of its own."""
    there = parts(tmp_path)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    for folder in (blobs, snapshot):
        folder.mkdir()
    for number, path in enumerate(there):
        path.rename(blobs / f"sha{number}")
        (snapshot / path.name).symlink_to(blobs / f"sha{number}")
    assert read_header(snapshot / there[1].name).path == snapshot / there[0].name
    link = tmp_path / "model.gguf"
    link.symlink_to(parts(tmp_path)[1])
    assert read_header(link).path == there[0].resolve()


def test_parts_of_one_model_are_one(tmp_path: Path) -> None:
    there = parts(tmp_path)
    other = tiny_llama(tmp_path / "other.gguf")
    bad = tmp_path / "bad-00002-of-00003.gguf"
    bad.write_bytes(b"nonsense")
    assert models_of([other, *there, bad, other]) == [other, there[0], bad, other]
    assert models_of(there[:0:-1]) == [there[0]], "the first part need not be named"
    there[0].unlink()
    assert models_of(there[1:]) == [there[1]]


def test_a_whole_model_that_is_named_like_a_later_part_is_itself(tmp_path: Path) -> None:
    paths = [tiny_llama(tmp_path / f"m-0000{n}-of-00002.gguf") for n in (1, 2)]
    assert models_of(paths) == paths


def test_a_part_under_anothers_name_says_which_it_is(tmp_path: Path) -> None:
    there = parts(tmp_path)
    swap = there[1].rename(tmp_path / "swap")
    there[2].rename(there[1])
    swap.rename(there[2])
    with pytest.raises(FileError, match="it is part 3; name it so") as caught:
        read_header(there[0])
    assert caught.value.path == there[1]


# ---------------------------------------------------------------- other formats


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 100)
    return file.getvalue()


def tarred(name: str, form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "zip": (zipped("readme.md", "m.gguf"), "unpack it"),
    "zip of a model": (zipped("folder/m.gguf"), "unpack it and name folder/m.gguf"),
    "PyTorch": (zipped("archive/data.pkl", "archive/data/0"), "convert_hf_to_gguf.py"),
    "old PyTorch": (pickle.dumps(0x1950A86A20F9469CFC6C, 2), "convert_hf_to_gguf.py"),
    "gzip": (gzip.compress(b"x" * 900), "unpack it"),
    "xz": (lzma.compress(b"x" * 900), "unpack it"),
    "bzip2": (b"BZh91AY&SY" + bytes(90), "unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(90), "unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(90), "unpack it"),
    "rar": (b"Rar!\x1a\x07\x01\0" + bytes(90), "unpack it"),
    "tar": (tarred("m.gguf", tarfile.PAX_FORMAT), "unpack it"),
    "GNU tar": (tarred("m.gguf", tarfile.GNU_FORMAT), "unpack it"),
    "safetensors": (struct.pack("<Q", 20) + b'{"a":{"dtype":"F16"}}' + bytes(90), "convert_hf"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git lfs pull"),
    "HTML": (b"\n  <!DOCTYPE html><html><head>", "/resolve/"),
    "HTML with a mark": (b"\xef\xbb\xbf<html lang='en'>", "web page"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
    "error": (b'{"error":"Repository not found"}', "error message"),
    "index": (b'{"metadata": {}, "weight_map": {}}', "convert_hf"),
    "config": (b'{"architectures": ["LlamaForCausalLM"]}', "configuration"),
    "JSON": (b"[1, 2]", "JSON"),
    "text": (b"Entry not found", '"Entry not found"'),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x051.9.0" + bytes(90), "ONNX"),
    "GGML": (b"lmgg" + bytes(90), "old GGML"),
    "GGMF": (b"fmgg\x01\0\0\0" + bytes(90), "old GGML"),
    "GGJT": (b"tjgg\x03\0\0\0" + bytes(90), "old GGML"),
    "ggjt": (b"ggjt\x03\0\0\0" + bytes(90), "old GGML"),
    "LoRA": (b"algg\x01\0\0\0" + bytes(90), "LoRA"),
    "session": (b"nsgg" + bytes(90), "session"),
    "PowerInfer": (b"PWRI" + bytes(90), "PowerInfer"),
    "TFLite": (b"\x1c\0\0\0TFL3" + bytes(90), "TensorFlow"),
    "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(90), "Keras"),
    "llamafile": (b"MZqFpD='\n" + bytes(90), "llamafile"),
    "AppleDouble": (b"\x00\x05\x16\x07\x00\x02\0\0" + bytes(90), "._"),
    "program": (b"\x7fELF" + bytes(90), "program"),
    "torrent": (b"d8:announce35:udp://x" + b"y" * 40, "torrent"),
}


@pytest.mark.parametrize("name", ["m.gguf", "other.bin"])
@pytest.mark.parametrize("kind", FILES)
def test_other_formats_are_recognised_by_content(tmp_path: Path, kind: str, name: str) -> None:
    data, step = FILES[kind]
    (tmp_path / name).write_bytes(data)
    error = refusal(tmp_path / name)
    assert error.kind == "not_gguf"
    assert step in str(error)
    assert "damaged" not in str(error)


def test_room_for_a_download_that_never_came(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(bytes(9000))
    assert "begins with zeros" in str(refusal(tmp_path / "m.gguf"))
    assert AGAIN in str(refusal(tmp_path / "m.gguf"))


@pytest.mark.parametrize("text", ["\x1b]0;evil page", "größe", "x" * 5000])
def test_a_text_is_quoted_and_steers_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.gguf").write_text(text, encoding="utf-8")
    message = str(refusal(tmp_path / "m.gguf"))
    assert "a text that begins" in message
    assert "\x1b" not in message
    assert len(message) < 250 + len(str(tmp_path))


def test_a_manifest_of_ollamas_leads_to_its_blob(tmp_path: Path) -> None:
    media = "application/vnd.ollama.image.model"
    layers = [{"mediaType": "x", "digest": "sha256:0"}, {"mediaType": media, "digest": "sha256:1"}]
    manifest = tmp_path / "models/manifests/registry.ollama.ai/library/llama3/latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    assert "name the blob of its layer" in str(refusal(manifest))
    blob = tmp_path / "models" / "blobs" / "sha256-1"
    blob.parent.mkdir()
    tiny_llama(blob)
    assert str(refusal(manifest)).endswith(f"name {blob.resolve()}.")


@given(head=st.binary(min_size=1, max_size=200).filter(lambda b: not b"GGUF".startswith(b[:4])))
@settings(max_examples=150)
def test_whatever_a_file_begins_with_it_is_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, head: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(head)
    if head[:4] != b"GGUF":
        assert refusal(path).kind == "not_gguf"


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize(
    ("version", "kind", "says"),
    [
        (1, "unsupported_version", "version 1"),
        (4, "unsupported_version", "update kvchat"),
        (2 << 24, "unsupported_version", "big-endian"),
        (1 << 16, "malformed", AGAIN),
        (0x12345678, "malformed", AGAIN),
    ],
)
def test_versions(tmp_path: Path, version: int, kind: str, says: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(header_bytes({"a": 1}, version=version))
    assert refusal(path).kind == kind
    assert says in str(refusal(path))


# ---------------------------------------------------------------- nothing there, or a folder


def test_names_that_are_near_are_said(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "Qwen3-8B-Q4_K_M.gguf")
    parts(tmp_path)
    for wrong in ("Qwen3-8B-Q4_K_M", "qwen3-8b-q4_k_m.gguf", "Qwen3-8B-Q5_K_M.gguf"):
        path = tmp_path / wrong
        if not path.exists():  # on a system that tells cases apart
            assert "near it lies" in str(refusal(path))
            assert "Qwen3-8B-Q4_K_M.gguf" in str(refusal(path))
    assert "big-00001-of-00003.gguf" in str(refusal(tmp_path / "big-00004-of-00003.gguf"))
    assert "there is no folder" in str(refusal(tmp_path / "gone" / "m.gguf"))
    assert "near it lies" not in str(refusal(tmp_path / "nothing-like-it.gguf"))


def test_links_and_patterns_that_lead_nowhere(tmp_path: Path) -> None:
    link = tmp_path / "m.gguf"
    link.symlink_to(tmp_path / "gone")
    assert f"a link to {tmp_path / 'gone'}, where no file lies" in str(refusal(link))
    assert "none in" in str(refusal(tmp_path / "*.gguf"))


@pytest.mark.parametrize(
    ("given", "step"),
    [
        ("https://huggingface.co/u/r/blob/main/m.gguf", "hf download u/r m.gguf"),
        (
            "https://huggingface.co/u/r/resolve/main/a/m.gguf?download=true",
            "hf download u/r a/m.gg",
        ),
        ("hf://u/r/m.gguf", "hf download u/r m.gguf"),
        ("hf://u/r", "hf download u/r --include '*.gguf'"),
        ("hf.co/u/r:Q4_K_M", "hf download u/r --include '*Q4_K_M*.gguf'"),
        ("https://example.org/m.gguf", "curl -LO https://example.org/m.gguf"),
        ("file:///home/me/m.gguf", "/home/me/m.gguf"),
        ("ollama://llama3", "ollama show"),
        ("llama3:8b", "ollama show"),
        ("user/repo-GGUF", "hf download user/repo-GGUF"),
    ],
)
def test_an_address_is_told_what_to_download(
    given: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert step in str(refusal(Path(given)))
    assert refusal(Path(given)).kind == "missing"


def test_a_folder_names_the_models_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    (folder / "deep").mkdir(parents=True)
    assert "without a .gguf file" in str(refusal(folder))
    (folder / "model.safetensors").touch()
    assert "safetensors" in str(refusal(folder))
    there = parts(folder / "deep")
    (folder / "mmproj-F16.gguf").touch()
    assert str(refusal(folder)).endswith(f"the model in it instead: '{there[0]}'.")
    tiny_llama(folder / "one.gguf")
    assert "a model in it instead" in str(refusal(folder))
    shutil.rmtree(folder / "deep")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names of characters only")
def test_names_of_any_bytes(tmp_path: Path) -> None:
    """Also of folders and parts, which are put together from them."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xff"))
    folder.mkdir()
    there = parts(folder)
    header = read_header(there[2])
    assert header.path == there[0]
    assert os.fsencode(header.path).startswith(os.fsencode(tmp_path) + b"/f\xff/")
    there[0].unlink()
    assert refusal(there[2]).kind == "missing_part"
    there[0].with_name(f"{there[0].name}.part").touch()
    assert "let the download that lies there finish" in str(refusal(there[2]))
