"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.chat_fakes import FakeLauncher, FakeRunning
from tests.support.gguf_files import tiny_llama
from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, giant_path
from tui.command import habits, one_shot, options
from tui.command.cli import main
from tui.keymap import Keymap
from tuner import tuning
from tuner.engine import client as engine_client
from tuner.engine.protocol import Text, WasThought
from tuner.errors import ExitCode
from tuner.planning import Plan
from tuner.tuning import Tuning
from tuner.wishes import LaunchRequest

ROOT = Path(__file__).parents[2]
MACHINE = ("--vram", "24GiB", "--ram", "64GiB")


@pytest.fixture(autouse=True)
def _no_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        yield


def explain(*args: str) -> list[str]:
    return [str(giant_path(AYA_35B)), "--explain", *MACHINE, *args]


def test_explain_prints_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    """The report on stdout, nothing on stderr, status 0."""
    assert main(explain()) == 0
    out, err = capsys.readouterr()
    assert "GPU layers  41 of 41" in out
    assert err == ""


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_numbers_that_break_what_is_found_late_are_the_file_s_fault(
    form: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alternatives are looked for when a report shows them: a sentence about the file, too."""

    def alternatives(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("tuner.planning.planner.alternatives", alternatives)
    assert main(explain(*form)) == ExitCode.FILE
    shown = capsys.readouterr()
    assert "make no model" in shown.out + shown.err


def test_explain_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object on stdout."""
    assert main(explain("--json")) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["plan"]["settings"]["n_gpu_layers"] == 41


def test_what_would_help_is_in_both_reports(capsys: pytest.CaptureFixture[str]) -> None:
    """A model that is partly in RAM; where nothing fits, with its own status."""
    args = [str(giant_path(GEMMA_27B)), "--explain", "--vram", "16GiB", "--ram", "32GiB"]
    assert main(args) == 0
    text = capsys.readouterr().out
    assert main([*args, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["advice"]["smaller"]
    assert told["whole"]
    assert f"As {told['quantization']}, about" in text.split("What would help")[1]
    assert main([*args[:2], "--vram", "4GiB", "--ram", "8GiB", "--json"]) == 4
    told = json.loads(capsys.readouterr().out)["advice"]
    assert told["from_disk"]["per_token"] > 0
    assert told["from_disk"]["disk"] == 3e9


def test_several_files_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object per line in the order given, an error object in the place of a bad file; each
    with its rank."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"nonsense")
    paths = [str(giant_path(AYA_35B)), str(bad), str(giant_path(LLAMA_8B))]
    assert main([*paths, "--explain", "--json", *MACHINE]) == 3
    got = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [g.get("path") or g["model"]["path"] for g in got] == paths
    assert got[1]["error"]["kind"] == "not_gguf"
    assert got[1]["schema"] == 1
    assert [g["rank"] for g in got] == [2, 3, 1]


@pytest.mark.parametrize(
    ("flags", "setting", "value"),
    [
        (("--ctx", "4k"), "n_ctx", 4096),
        (("--ctx", "max"), "n_ctx", 8192),
        (("--kv", "q8_0"), "type_v", "q8_0"),
        (("--type-k", "q8_0", "--type-v", "q5_1"), "type_v", "q5_1"),
        (("--gpu-layers", "99"), "n_gpu_layers", 41),
        (("--gpu-layers", "all"), "n_gpu_layers", 41),
        (("--gpu-layers", "7"), "n_gpu_layers", 7),
        (("--ubatch", "64"), "n_ubatch", 64),
        (("--flash-attn", "off"), "flash_attn", "off"),
    ],
)
def test_wishes_are_kept(
    flags: tuple[str, ...], setting: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each flag ends up in the settings as it was given."""
    assert main(explain("--json", *flags)) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["settings"][setting] == value


def test_two_stated_gpus_and_a_split(capsys: pytest.CaptureFixture[str]) -> None:
    """--vram with commas states several GPUs; --tensor-split is kept."""
    args = [str(giant_path(LLAMA_8B)), "--explain", "--json", "--vram", "12GiB,8GiB"]
    assert main([*args, "--ram", "32GiB", "--tensor-split", "3,1"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert [d["total"] >> 30 for d in got["machine"]["devices"]] == [12, 8, 32]
    assert got["plan"]["settings"]["tensor_split"] == [3.0, 1.0]


def test_cards_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """--gpu states cards with their figures, several at once; what is assumed is told."""
    args = [str(giant_path(LLAMA_8B)), "--explain", "--ram", "32GiB"]
    assert main([*args, "--gpu", "rtx 3090,3060:12GiB", "--gpu", "4060ti:16GiB", "--json"]) == 0
    machine = json.loads(capsys.readouterr().out)["machine"]
    *gpus, host = machine["devices"]
    assert [(d["name"], d["total"] >> 30) for d in gpus] == [
        ("RTX 3090", 24), ("RTX 3060", 12), ("RTX 4060 Ti", 16),
    ]  # fmt: skip
    assert [d["n_sm"] for d in gpus] == [82, 28, 34]
    assert (gpus[0]["compute_capability"], host["compute_capability"]) == ([8, 6], None)
    assert any("this machine" in words for words in machine["assumed"])

    assert main([*args, "--gpu", "none", "--cores", "8", "--ram-bandwidth", "89.6GB/s"]) == 0
    assert "assumed" not in capsys.readouterr().out.split("Chosen")[0]
    assert main([*args, "--gpu", "RTX 3060"]) == 0
    assert "assumed: GPU0 at 360 GB/s by the data sheet" in capsys.readouterr().out


def test_a_cpu_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    """--cores and --ram-bandwidth carry the speed; --threads may then be as many."""
    args = [str(giant_path(LLAMA_8B)), "--explain", "--json", "--gpu", "none", "--ram", "32GiB"]
    speeds = []
    for cores, rate in (("2", "40GB/s"), ("16", "40GB/s"), ("16", "400 GB/s")):
        assert main([*args, "--cores", cores, "--ram-bandwidth", rate, "--threads", cores]) == 0
        got = json.loads(capsys.readouterr().out)
        assert got["machine"]["physical_cores"] == int(cores)
        speeds.append(got["plan"]["speed"]["decode_tps"])
    assert speeds == sorted(set(speeds)), "each is faster than the one before"


def test_reserve_is_left_free(capsys: pytest.CaptureFixture[str]) -> None:
    """--reserve replaces the 512 MiB kept on each GPU."""
    assert main(explain("--json", "--reserve", "2GiB")) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["machine"]["devices"][0]["reserve"] == 2 << 30
    use = got["plan"]["footprint"][0]
    assert use["total"] <= use["budget"] == 22 << 30


def test_a_calculator_when_everything_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    """Settings that do not fit are still added up, marked, and end with status 4."""
    flags = ("--ctx", "8192", "--kv", "f16", "--gpu-layers", "all", "--json")
    assert main(explain(*flags)) == 4
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["fits"] is False
    assert plan["footprint"][0]["total"] > plan["footprint"][0]["budget"]
    assert plan["footprint"][0]["kv_cache"] == 8192 * 8192 * 2 * 2 * 40


def test_a_gpu_too_small_to_use_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The plan is for what is left, and the warning says which GPU and why."""
    args = [str(giant_path(LLAMA_8B)), "--explain", "--json", "--ram", "64GiB"]
    for vram, left in (("700MiB", ["host"]), ("24GiB,512MiB", ["GPU0", "host"])):
        assert main([*args, "--vram", vram]) == 0
        got = json.loads(capsys.readouterr().out)
        assert [d["id"] for d in got["machine"]["devices"]] == left
        assert any("left out" in w for w in got["warnings"])


def test_layers_for_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """The model is planned for the CPU, and the flag is said to have no effect."""
    args = [str(giant_path(LLAMA_8B)), "--explain", "--vram", "0", "--ram", "64GiB"]
    assert main([*args, "--gpu-layers", "99"]) == 0
    out = capsys.readouterr().out
    assert "no effect" in out
    assert "Nothing" not in out


def test_an_output_that_cannot_show_bars(tmp_path: Path) -> None:
    """An ASCII stream gets replacements, not a traceback."""
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "tui.start", *explain()], cwd=ROOT, env=env, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "41 of 41" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_sentence() -> None:
    """Output that cannot be written is told, without a traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tui.start", *explain()], cwd=ROOT, stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1


def test_a_question_that_is_not_utf8() -> None:
    """Bytes of another encoding in a pipe are replaced, and the answer comes."""
    done = subprocess.run(
        [sys.executable, "-m", "tui.start", "--demo", "--no-profile", "-p", "Say:", "--max-tokens",
         "3", "--ctx", "256", "--threads", "1"],
        cwd=ROOT, input=b"caf\xe9 \xff", capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_worst_of_several_files_is_the_one_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """3 wins over 4, and stderr has the whole reason that the table has no room for."""
    paths = [str(giant_path(AYA_35B)), str(tmp_path / "none.gguf")]
    assert main([*paths, "--explain", "--vram", "1GiB", "--ram", "4GiB"]) == 3
    out, err = capsys.readouterr()
    assert "does not fit" in out
    assert "none.gguf" in err


WRONG = [
    (("--tensor-split", "3,1,1"), "--tensor-split"),
    (("--rpc", "somewhere"), "--rpc takes HOST:PORT"),
    (("--rpc", "127.0.0.1:9"), "--rpc is measured"),
    (("--vram", "24"), "--vram '24' has no unit"),
    (("--ram", "32"), "--ram '32' has no unit"),
    (("--threads", "100000"), "--threads"),
    (("--threads", "16", "--cores", "4"), "1 to 4, the stated cores"),
    (("--gpu", "RTX 3090"), "--vram"),
    (("--cores", "0"), "--cores"),
    (("--width", "10"), "--width"),
    (("--width", "wide"), "--width"),
    (("--keep-states", "some"), "--keep-states 'some'"),
    (("--idle-unload", "0"), "--idle-unload"),
    (("--cores", "100000"), "--cores"),
    (("--ram-bandwidth", "0GB/s"), "89.6GB/s"),
    (("--ram-bandwidth", "90"), "has no unit"),
    (("--ram-bandwidth", "9" * 18 + "TB/s"), "89.6GB/s"),
    (("--seed", "x"), "--seed"),
    (("--temperature", "-1"), "--temperature"),
    (("--ctx", "0"), "--ctx"),
    (("--ctx", "many"), "tokens"),
    (("--kv", "q3_x"), "cache type"),
    (("--kv", "q8_0", "--type-v", "f16"), "--kv"),
    (("--gpu-layers", "-1"), "--gpu-layers"),
    (("--flash-attn", "maybe"), "--flash-attn"),
    (("--prefer", "luck"), "--prefer"),
    (("--vram", "lots"), "size"),
    (("--reserve", "1 parsec"), "--reserve '1 parsec' is not a size"),
    (("--tensor-split", "0,0"), "--tensor-split"),
    (("--no-such-flag",), "--no-such-flag"),
    (("--ctx", "4294967552"), "--ctx"),
    (("--ctx", "9" * 5000), "tokens"),
    (("--ctx", "2147483393"), "2,147,483,392"),
    (("--ubatch", "65537"), "--ubatch"),
    (("--gpu-layers", "2147483648"), "--gpu-layers"),
    (("--n-cpu-moe", "9" * 5000), "--n-cpu-moe"),
    (("--seed", "4294967296"), "--seed"),
    (("--max-tokens", "2147483648"), "--max-tokens"),
    (("--vram", "9" * 500 + "GiB"), "size"),
    (("--ram", "9999999999GiB"), "memory"),
    (("--reserve", "1.8e300"), "size"),
    (("--flash-attn", "off", "--kv", "q8_0"), "flash attention"),
    # However much is repeated of a value, the sentence says what to do.
    *(
        ((flag, "x" * 20_000), word)
        for flag, word in {
            "--ctx": "16384", "--kv": "q8_0", "--type-v": "q8_0", "--gpu-layers": "at least 0",
            "--ubatch": "at least 1", "--tensor-split": "number", "--flash-attn": "not 'x",
            "--prefer": "not 'x", "--vram": "24GiB", "--ram": "24GiB", "--reserve": "24GiB",
            "--threads": "at least 1", "--cores": "at least 1", "--ram-bandwidth": "89.6GB/s",
            "--temperature": "from 0", "--seed": "at least 0",
            "--unknown": "--help",
        }.items()
    ),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "word"), WRONG)
def test_wrong_usage_is_one_sentence(
    flags: tuple[str, ...], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, a line on stderr that names the culprit, nothing on stdout."""
    assert main(explain(*flags)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kvchat: ")
    assert err.count("\n") == 1
    assert len(err) < 400
    assert word in err


@pytest.mark.parametrize(
    "flags", [("--gpu", "RTX 3090"), ("--cores", "8"), ("--ram-bandwidth", "90GB/s")]
)
def test_nothing_runs_on_hardware_that_is_only_described(
    flags: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A card that is not here would else be a slow answer on the CPU, without a word."""
    assert main([str(giant_path(LLAMA_8B)), *flags, "-p", "hi"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"kvchat: {flags[0]} describes another machine")


def bad_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.gguf" for name in ("missing", "empty", "text", "cut")}
    files["empty"].write_bytes(b"")
    files["text"].write_text("# Not a model\n" * 10)
    files["cut"].write_bytes(giant_path(AYA_35B).open("rb").read(5000))
    files["folder"] = folder
    return files


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "folder"])
@pytest.mark.parametrize("flags", [("--explain",), ("-p", "hi"), ("--explain", "--json"), ()])
def test_a_file_that_cannot_be_used(
    kind: str, flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 3; one sentence on stderr, or with --json an error object on stdout."""
    path = bad_files(tmp_path)[kind]
    assert main([str(path), *flags, *MACHINE]) == 3
    out, err = capsys.readouterr()
    if "--json" in flags:
        assert json.loads(out)["error"]["message"]
    else:
        assert (out, err.count("\n")) == ("", 1)
        assert path.name in err


@pytest.mark.skipif(os.name == "nt", reason="POSIX")
@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
@pytest.mark.parametrize("flags", [("--explain",), ("-p", "hi"), ()])
def test_what_is_no_file_is_never_opened(
    kind: str, flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading it would wait for ever, or never come to an end: refused in one sentence."""
    path = Path("/dev/zero") if kind == "device" else tmp_path / "odd.gguf"
    if kind == "fifo":
        os.mkfifo(path)
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "socket":
            listener.bind(str(path))
        assert main([str(path), *flags, *MACHINE]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "is not a file" in err


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("llama.embedding_length", 0, "embedding_length"),
        ("llama.attention.head_count", 0, "head_count"),
        ("llama.block_count", 0, "block_count"),
        ("general.architecture", "flux", "flux"),
        ("general.architecture", "ll\x1b[31mama\n\x07", "another kind of model"),
    ],
)
def test_a_header_of_nonsense_is_one_plain_sentence(
    key: str, value: object, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers no model has and names with escape codes: status 3, one line, nothing raw."""
    path = tiny_llama(tmp_path / "odd.gguf", {key: value})
    assert main([str(path), "--explain", *MACHINE]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert word in err
    assert "\x1b" not in err


@pytest.mark.parametrize("why", [ZeroDivisionError("a" * 900), KeyError("x"), MemoryError()])
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_one_bad_file_costs_its_own_row(
    why: Exception,
    flags: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever goes wrong over its numbers, the others are told as ever, and so is it alone."""
    names = ("first", "bad", "last")
    paths = [str(tiny_llama(tmp_path / f"{name}.gguf")) for name in names]
    plan = Tuning.plan

    def stumbling(one: Tuning) -> Plan:
        if one.request.path.stem == "bad":
            raise why
        return plan(one)

    monkeypatch.setattr(Tuning, "plan", stumbling)
    assert main([*paths, "--explain", *flags, *MACHINE]) == 3
    out, err = capsys.readouterr()
    if flags:
        got = [json.loads(line) for line in out.splitlines()]
        assert [g["error"]["kind"] if "error" in g else "" for g in got] == ["", "malformed", ""]
        assert type(why).__name__ in got[1]["error"]["message"]
        assert len(got[1]["error"]["message"]) < 300 + len(str(tmp_path))
    else:
        assert [line.split()[1] for line in out.splitlines()[1:4]] == [
            "first.gguf", "last.gguf", "bad.gguf",
        ]  # fmt: skip
        assert type(why).__name__ in err
    assert main([paths[1], "--explain", *MACHINE]) == 3
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("flags", [("--explain",), ("-p", "hi")])
def test_whatever_goes_wrong_over_one_file_is_a_sentence(
    flags: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a report and in a launch."""

    def stumble(*args: object, **kwargs: object) -> Plan:
        raise OverflowError("no such number")

    monkeypatch.setattr(tuning, "make_plan", stumble)
    path = tiny_llama(tmp_path / "odd.gguf")
    assert main([str(path), *flags, *MACHINE]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "(OverflowError: no such number)" in err


def test_a_context_of_billions_is_planned_quickly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trained context that nobody could hold does not make the search endless."""
    path = tiny_llama(tmp_path / "odd.gguf", {"llama.context_length": 4_000_000_000})
    assert main([str(path), "--explain", "--json", *MACHINE]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["settings"]["n_ctx"] <= 1 << 22


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-m", "x.gguf"), "there is no -m here: the model is named without a flag"),
        (("x.gguf", "-c", "4096"), "-c is --ctx here"),
        (("x.gguf", "-ngl=99"), "-ngl is --gpu-layers here"),
        (("x.gguf", "--odd", "-ctk", "q8_0"), "-ctk is --type-k here"),
        (("x.gguf", "--odd"), "unrecognized arguments: --odd"),
    ],
)
def test_a_flag_of_llama_cpp_is_told_by_its_name_here(
    flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(flags)) == 2
    assert capsys.readouterr().err.startswith(f"kvchat: {said}")


def test_what_a_flag_of_llama_cpp_is_called_here_exists() -> None:
    known = {flag for action in options.parser()._actions for flag in action.option_strings}
    assert set(habits.CALLED.values()) <= known
    assert not habits.CALLED.keys() & known


def test_no_model_and_no_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Without a file, and with a file but no terminal and no question, usage says what to do."""
    assert main([]) == 2
    assert "--demo" in capsys.readouterr().err
    path = tiny_llama(tmp_path / "tiny.gguf")
    assert main([str(path), "--json"]) == 2
    assert "--explain" in capsys.readouterr().err
    assert main([str(path)]) == 2
    assert "-p" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--explain",), "leave out --explain"),
        (("--show-prompt",), "leave out --explain and --show-prompt"),
        (("-p", "Hello?"), "-p and a piped question"),
        (("-p", "Hello?", "--plain"), "-p and a piped question"),
        (("--bench",), "--bench is a run of its own: leave out --choose."),
        (("--json",), "--json goes with"),
        ((), "needs the terminal"),
    ],
)
def test_what_choose_does_not_go_with(
    flags: tuple[str, ...], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_llama(tmp_path / "tiny.gguf")
    assert main([str(path), "--choose", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert word in err


def test_explain_never_loads_the_engine_or_a_screen() -> None:
    """A report imports neither llama_cpp nor Textual, nor the slow gguf package."""
    code = (
        "import sys; from tui.command.cli import main; status = main(sys.argv[1:]);"
        "bad = {'llama_cpp', 'textual', 'gguf', 'numpy'} & sys.modules.keys();"
        "sys.exit(f'imported {bad}' if bad else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *explain()], cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "41 of 41" in done.stdout


def test_help_names_the_keys_and_opens_no_screen() -> None:
    """The keys of the table, and neither the engine nor Textual is imported for them."""
    code = (
        "import sys\n"
        "from tui.command.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: bad = {'llama_cpp', 'textual', 'rich'} & sys.modules.keys()\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert Keymap().welcome() in " ".join(done.stdout.split())


class Terminal(io.StringIO):
    """An output that someone reads on a screen, or a pipe."""

    def __init__(self, shown: bool) -> None:
        super().__init__()
        self.shown = shown

    def isatty(self) -> bool:
        return self.shown


@pytest.mark.parametrize("shown", [True, False])
def test_an_answer_does_not_steer_the_terminal(
    shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a screen an escape code of the model is text; a pipe gets what the model wrote."""

    class Launch(FakeLauncher):
        client = SimpleNamespace(close=lambda: None)

        def __init__(self, _: object) -> None:
            super().__init__(FakeRunning([["a\x1b[31mb\n", "\x9bc"]]))

    output = Terminal(shown)
    monkeypatch.setattr(one_shot, "Launcher", Launch)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the handler would outlive the test
    monkeypatch.setattr("sys.stdout", output)
    assert one_shot.answer(LaunchRequest(Path("x.gguf")), "Go", None) == 0
    assert output.getvalue() == ("a␛[31mb\nc\n" if shown else "a\x1b[31mb\n\x9bc\n")


@pytest.mark.parametrize("show", [False, True])
@pytest.mark.parametrize(
    ("said", "reason", "out", "aside", "word"),
    [
        ([Text("h\x1bm", 1, thought=True), "Yes."], "end", "Yes.\n", "h␛m\n\n", ""),
        ([Text("hm\n", 1, thought=True), "Yes."], "end", "Yes.\n", "hm\n\n", ""),
        ([Text("hm", 1, thought=True)], "max_tokens", "\n", "hm", "not answer within --max-tokens"),
        (["hm", WasThought(), "Yes."], "end", "hm\n\nYes.\n", "", "the model's thought"),
        ([], "max_tokens", "\n", "", "the model said nothing within --max-tokens"),
        (["\n"], "end", "\n\n", "", "the model said nothing"),
    ],
)
def test_one_answer_is_printed_without_its_thought(
    monkeypatch: pytest.MonkeyPatch,
    said: list[Any],
    reason: str,
    out: str,
    aside: str,
    word: str,
    show: bool,
) -> None:
    """stdout has the answer alone; the thought goes to stderr where it is asked for, cleaned for a
    terminal. An answer that did not come is told."""

    class Launch(FakeLauncher):
        client = SimpleNamespace(close=lambda: None)

        def __init__(self, _request: LaunchRequest):
            super().__init__(FakeRunning([said], reason))

    output, errors = Terminal(False), Terminal(True)
    monkeypatch.setattr(one_shot, "Launcher", Launch)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the handler would outlive the test
    monkeypatch.setattr("sys.stdout", output)
    monkeypatch.setattr("sys.stderr", errors)
    request = LaunchRequest(Path("x.gguf"))
    assert one_shot.answer(request, "Go", None, show_thinking=show) == 0
    told = errors.getvalue()
    assert output.getvalue() == out
    assert (aside in told) if show else ("hm" not in told and "h␛m" not in told)
    assert word in told


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--show-thinking",), "--show-thinking goes with -p"),
        (("-p", "Hi", "--resume"), "--resume goes with the chat or --show-prompt"),
    ],
)
def test_flags_of_one_answer_and_of_the_chat(
    flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag that would change nothing is refused."""
    assert main(["--demo", *flags]) == 2
    assert said in capsys.readouterr().err


def test_an_interrupt_while_the_program_is_read_is_silent() -> None:
    """No traceback, the interrupt's own status."""
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'tui.command.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from tui.start import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (ExitCode.INTERRUPTED, "")


def test_profiles_can_be_listed_and_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty list is no error; forgetting what is not there is."""
    assert main(["--profiles"]) == 0
    assert "No profiles" in capsys.readouterr().err
    assert main(["--forget", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err


def test_the_engine_is_not_asked_for_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """--explain starts no model process."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model process was started")

    monkeypatch.setattr(engine_client, "WorkerProcess", never)
    assert main(explain()) == 0


def test_the_flags_of_one_question_are_not_to_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are what is asked for, and not what the model's profile is to hold."""
    asked: list[LaunchRequest] = []

    def answered(request: LaunchRequest, *_: object, **__: object) -> int:
        asked.append(request)
        return 0

    monkeypatch.setattr(one_shot, "answer", answered)
    path = tiny_llama(tmp_path / "m.gguf")
    assert main([str(path), "-p", "Go", "--temperature", "0.2", "--think", "off"]) == 0
    (request,) = asked
    assert request.sampling == {"temperature": 0.2}
    assert request.think == "off"
    assert not request.keeps_flags
