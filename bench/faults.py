"""What kvchat does when things go wrong: damaged files, killed processes, homes that cannot be
written.

    python -m bench.faults databases [--n 300] [--seed 0]
    python -m bench.faults profiles  [--n 1000] [--seed 0]
    python -m bench.faults engine    [--n 50]      6 in each conversation: kills and stops of the
                                                   model process, its template's process or an RPC
                                                   server, memory and disk that end, damaged states,
                                                   garbage in its pipes, a clock that jumps, ends by
                                                   the user
    python -m bench.faults worker    [--n 50]      kills of the model process, 4 in each chat
    python -m bench.faults chat      [--n 50]      kills of the program in a chat
    python -m bench.faults one-shot  [--n 50]      kills of the program in -p
    python -m bench.faults homes     [--n 24]      homes that cannot be written

Each case follows from its seed alone. Prints a count per kind of outcome, and the seed of each
case in which something was lost without a word or an exception came out; exit status 1 then.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bench import kills
from bench.engine_faults import play_engine, shares
from bench.kills import LostError
from bench.mishaps import with_a_clock_that_jumps
from tests.support.faults import DATABASE_DAMAGES, damaged_json, fill
from tests.support.gguf_files import tiny_llama
from tests.support.giants import gpu, machine
from tui.storage import Conversation, Conversations, Recorder, StoredMessage
from tui.storage.conversations import StoreError
from tuner.engine_version import ENGINE_VERSION
from tuner.gguf.header import read_header
from tuner.machine.machine import Machine
from tuner.machine.usable import with_reserve
from tuner.model.model import Model, describe
from tuner.planning import Plan
from tuner.profiles.beside import grown_by
from tuner.profiles.lessons import known_beside
from tuner.profiles.profiles import MachineFacts, Profile, Profiles
from tuner.report.json import report_json
from tuner.report.text import report_text
from tuner.tuning import Tuning
from tuner.wishes import LaunchRequest, Wishes

CONVERSATIONS, MESSAGES = 8, 16  # of the database that is damaged


# ---------------------------------------------------------------- damaged databases


@cache
def _whole_database() -> tuple[bytes, dict[str, list[str]]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "conversations.db"
        store = Conversations.open(path)
        fill(store, CONVERSATIONS, MESSAGES)
        texts = _texts(store)
        store.close()
        return path.read_bytes(), texts


def _texts(store: Conversations) -> dict[str, list[str]]:
    return {c.id: [m.content for m in store.messages(c.id)] for c in store.list()}


def _altered(store: Conversations, texts: dict[str, list[str]]) -> int:
    """Messages of another text than was saved. Raises where one of them does not say so."""
    known = {text for path in texts.values() for text in path}
    altered = [m for c in store.list() for m in store.messages(c.id) if m.content not in known]
    if not all(message.damaged for message in altered):
        raise LostError("a text, which is another one now")
    return len(altered)


def play_database(seed: int) -> str:
    """Damages a database, opens it, goes through it as a chat does, saves, opens it again.
    Returns what came of it; raises where something was lost in silence."""
    whole, texts = _whole_database()
    chance = random.Random(seed)
    kind = chance.choice([*DATABASE_DAMAGES])
    raw = bytearray(whole)
    DATABASE_DAMAGES[kind](chance, raw)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "conversations.db"
        path.write_bytes(raw)
        store = Conversations.open(path)
        said: list[str] = [store.warning] if store.warning else []
        recorder = Recorder(store, said.append, said.append)
        found: dict[str, list[str]] = {}
        altered = 0
        try:
            found = _texts(store)
            altered = _altered(store, texts)
            for word in ("alpha", "学習", "absent"):
                store.search(word)
        except StoreError as error:
            said.append(str(error))
        for key, head, parent in (("new", "n1", None), ("c0", "n2", f"c0m{MESSAGES - 1}")):
            message = StoredMessage(head, parent, "user", f"fresh {head}", 1.0)
            recorder.save(Conversation(key, "t", 1.0, 1.0, None, head), message).result()
        recorder.close()
        store.close()
        if recorder.problem or not store.saved:
            if "newer kvchat" not in " ".join(said):  # any number may stand in a damaged header
                raise LostError(f"not saved: {said}")
            return f"{kind}: in memory, told"
        again = Conversations.open(path)
        after = _texts(again)
        altered += _altered(again, {**texts, "new": ["fresh n1", "fresh n2"]})
        again.close()
        if after.get("new") != ["fresh n1"] or after.get("c0", [])[-1:] != ["fresh n2"]:
            raise LostError("what was said after the damage")
        if not said and {k: len(v) for k, v in found.items()} != {
            k: len(v) for k, v in texts.items()
        }:
            raise LostError("messages")
        kept = sum(len(path) for path in after.values()) - 2
        all_kept = "all" if kept == CONVERSATIONS * MESSAGES else "part of it"
        told = "told" if said or altered else "nothing to tell"
        return f"{kind}: {told}, {all_kept} kept"


# ---------------------------------------------------------------- damaged profiles

_MACHINES = tuple(
    replace(one, engine_version=ENGINE_VERSION)
    for one in (machine(ram=4), machine(gpu(8)), machine(gpu(8), gpu(6, 1)))
)


@cache
def _model() -> Model:
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    return describe(read_header(tiny_llama(folder / "tiny.gguf")))


@cache
def _whole_profile(which: int) -> Profile:
    """As a load on that machine would have left it."""
    where, model = _MACHINES[which], _model()
    plan = Tuning(LaunchRequest(model.path), model, where).plan()
    return Profile(
        fingerprint=model.fingerprint,
        model_name=model.name,
        model_path=str(model.path),
        settings=plan.chosen.settings,
        wishes={"prefer": Wishes().prefer},
        predicted=plan.chosen.footprint.uses,
        predicted_decode_tps=plan.chosen.speed.decode_tps,
        gpu_taken={gpu.id: 1 << 28 for gpu in where.gpus},
        off_by={"GPU0 compute": 0.04},
        decode_tps=81.5,
        prompt_tps=900.25,
        engine_version=ENGINE_VERSION,
    )


def play_profile(seed: int) -> str:
    """Damages a profile and the facts about a machine, plans with them, writes both reports and
    lists the profiles. Raises where a number in the plan makes no sense."""
    chance = random.Random(seed)
    which = chance.randrange(len(_MACHINES))
    with tempfile.TemporaryDirectory() as folder:
        profiles = Profiles(Path(folder), machine="desk")
        profiles.save(_whole_profile(which))
        profiles.learn(
            lambda facts: replace(
                facts,
                overheads={"CUDA:GPU-1": (1 << 28,)},
                growths={"CUDA:GPU-1": (grown_by(_model(), 512, 1 << 27),)},
                host_bandwidth=3e10,
                engine_version=ENGINE_VERSION,
            )
        )
        for path in Path(folder).rglob("*.json"):
            if chance.randrange(5):
                path.write_bytes(damaged_json(chance, path.read_bytes()))
        facts = profiles.machine_facts()
        request = LaunchRequest(_model().path)
        tuning = Tuning(request, _model(), _with_facts(_MACHINES[which], facts), profiles, facts)
        plan = tuning.plan()
        report_text(plan)
        json.dumps(report_json(plan), allow_nan=False)
        profiles.list()
        _check_numbers(plan)
        return "set aside, told" if profiles.warnings else "used or passed over"


def _with_facts(where: Machine, facts: MachineFacts) -> Machine:
    """The machine as measuring it with these facts would give it."""
    host = replace(where.host, bandwidth=facts.host_bandwidth or where.host.bandwidth)
    known = known_beside(facts, ENGINE_VERSION, _model())
    gpus = (replace(gpu, uuid="GPU-1") for gpu in where.gpus)
    return replace(where, host=host, gpus=tuple(with_reserve(gpu, None, known) for gpu in gpus))


def _check_numbers(plan: Plan) -> None:
    chosen = plan.chosen
    numbers: Iterator[float] = itertools.chain(
        (chosen.speed.decode_tps, chosen.speed.prompt_tps, chosen.settings.n_ctx),
        chosen.footprint.totals,
    )
    if not all(math.isfinite(n) and n >= 0 for n in numbers):
        raise LostError("a number of the plan makes no sense")


# ---------------------------------------------------------------- homes

_HINDRANCES: Mapping[str, Callable[[Path], object]] = {
    "a file above it": lambda path: path.parent.write_text("in the way"),
    "a file": lambda path: path.write_text("in the way"),
    "a link to nowhere": lambda path: path.symlink_to(path.parent / "none" / "none"),
    "a loop": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/full"),
    "a pipe": os.mkfifo,
    "/proc": lambda path: path.symlink_to("/proc/self"),
}


def play_home(seed: int) -> str:
    """Asks with -p in a home where some folders cannot be used, each for a reason. The answer
    comes, and what could not be kept is said."""
    chance = random.Random(seed)
    kept = ("CONFIG", "LOG")
    hindered = [name for name in kept if chance.randrange(2)] or [chance.choice(kept)]
    with tempfile.TemporaryDirectory() as folder:
        reasons = []
        environ = {**os.environ, "TMPDIR": folder}
        for name in ("CONFIG", "DATA", "LOG"):
            path = Path(folder) / name / "folder"
            if name in hindered:
                reason = chance.choice([*_HINDRANCES])
                if reason != "a file above it":
                    path.parent.mkdir()
                _HINDRANCES[reason](path)
                reasons.append(reason)
            environ[f"KVCHAT_{name}_DIR"] = str(path)
        model = tiny_llama(Path(folder) / "tiny.gguf")
        code = (
            "import sys; from tests.support.scripted_worker import scripted_worker; "
            "from tuner.engine import client; client.WORKER_COMMAND = scripted_worker(); "
            "from tui.start import main; sys.exit(main())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(model), "-p", "hi"],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    if done.returncode or "Hello" not in done.stdout or "Traceback" in done.stderr:
        raise LostError(f"{reasons}: {done}")
    for name, word in (("LOG", "log cannot be written"), ("CONFIG", "could not be saved")):
        if name in hindered and word not in done.stderr:
            raise LostError(f"{name} with {reasons} unsaid: {done.stderr}")
    return f"answered, told: {' and '.join(hindered)}"


# ---------------------------------------------------------------- the program

PLAYS: dict[str, tuple[Callable[[int], str | list[str]], int]] = {
    "databases": (play_database, 300),
    "profiles": (play_profile, 1000),
    "engine": (play_engine, 50),
    "worker": (kills.play_worker, 50),
    "chat": (kills.play_chat, 50),
    "one-shot": (kills.play_one_shot, 50),
    "homes": (play_home, 24),
}


def play_all(
    play: Callable[[int], str | list[str]], seeds: range
) -> tuple[Counter[str], dict[int, str]]:
    """How many cases came to what, and the exception of each seed that raised one."""
    counts: Counter[str] = Counter()
    fallen: dict[int, str] = {}
    for seed in seeds:
        try:
            said = play(seed)
            counts.update([said] if isinstance(said, str) else said)
        except Exception:
            counts["EXCEPTION"] += 1
            fallen[seed] = traceback.format_exc()
    return counts, fallen


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=[*PLAYS])
    parser.add_argument("--n", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args: Any = parser.parse_args(argv)
    if args.what == "engine":
        with_a_clock_that_jumps(["-m", "bench.faults", *(argv or sys.argv[1:])])
    play, usual = PLAYS[args.what]
    n = args.n or usual
    counts, fallen = play_all(play, range(args.seed, args.seed + n))
    print(f"{args.what}: {n} cases, seeds {args.seed} to {args.seed + n - 1}")
    told = (f"{count:6} {outcome}" for outcome, count in sorted(counts.items()))
    print(*(shares(counts) if args.what == "engine" else told), sep="\n")
    for seed, trace in fallen.items():
        print(f"seed {seed}: {trace}")
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main())
