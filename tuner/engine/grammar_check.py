"""Whether the engine understands a grammar, asked in a process of its own before a model is loaded.

A grammar is a foreign program: llama.cpp reads one that repeats something five to three times until
memory ends, and overflows its stack on brackets by the thousand. So a small child tries it, under
the system's limits, and may die of it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tuner.child_environment import child_environment
from tuner.engine.lifeline import child_command, end_with_parent
from tuner.errors import EngineError, UsageError
from tuner.safe_text import cut
from tuner.units import MIB

SECONDS = 10  # of the CPU; the longest grammars take some hundredths
MEMORY = 128 * MIB  # beyond what the engine takes to be there
_START_SECONDS = 60.0
_MAX_TRIED = 500

_RULE = re.compile(r"^[ \t]*([a-zA-Z0-9-]+)[ \t]*::=", re.MULTILINE)


def require_grammar(text: str, model: Path, named: str) -> None:
    """Raises UsageError where the engine does not understand a grammar; `named`: as the message
    calls it. `model`: whose tokens it may name."""
    question = json.dumps({"grammar": text, "model": os.fsencode(model).hex()}).encode()
    try:
        done = subprocess.run(
            child_command("tuner.engine.grammar_check"),
            input=question,
            capture_output=True,
            env={**child_environment(), "GGML_NO_BACKTRACE": "1"},
            timeout=_START_SECONDS + SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"{named} takes too long to be read: make it simpler.") from None
    except OSError as error:
        raise EngineError("crashed", f"no process could be started: {error}") from error
    if done.stdout.strip() == b"understood":
        return
    said = done.stderr.decode("utf-8", "replace")
    if done.stdout.strip() != b"not understood" or "std::bad_alloc" in said:
        if (not done.returncode and not done.stdout) or "Error" in said:
            raise EngineError("crashed", f"{named} could not be looked at: {cut(said[-200:], 200)}")
        raise UsageError(f"{named} is too large, or means itself without end: make it simpler.")
    raise UsageError(f"{named} is no grammar that the engine understands: {_reason(said, text)}.")


def _reason(said: str, text: str) -> str:
    """What llama.cpp says (src/llama-grammar.cpp), and the line."""
    _, found, after = said.partition("error parsing grammar: ")
    if found:
        what, _, rest = after[: after.rfind(text)].rstrip("\n").partition(" at ")
        read = text.rstrip("\n")
        if not rest or not read.endswith(rest):
            return cut(what, 200)
        return f"{cut(what, 200)} at line {read[: len(read) - len(rest)].count(chr(10)) + 1}"
    if "does not contain" in said:
        return "it has no rule named root"
    if "left recursion" in said:
        return "a rule begins with itself"
    return "it has no rules"


def main() -> None:
    """Reads {"grammar", "model"}, writes "understood" or "not understood"."""
    end_with_parent()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    question = json.loads(sys.stdin.buffer.read())
    lib = importlib.import_module("llama_cpp")
    grammar = question["grammar"].encode()
    vocab = None
    if "<" in question["grammar"]:  # it may name tokens
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.vocab_only = True
        model = lib.llama_model_load_from_file(bytes.fromhex(question["model"]), params)
        vocab = lib.llama_model_get_vocab(model) if model else None
    _limit()
    # From each rule: one that means itself without end may be met long after the first token.
    rules = _RULE.findall(question["grammar"])[:_MAX_TRIED]
    understood = all(
        lib.llama_sampler_init_grammar(vocab, grammar, name.encode()) for name in ("root", *rules)
    )
    with answer:
        answer.write("understood" if understood else "not understood")
    sys.stderr.flush()
    os._exit(0)


def _limit() -> None:
    try:
        import resource  # noqa: PLC0415 - POSIX

        import psutil  # noqa: PLC0415 - only here
    except ImportError:
        return
    taken = psutil.Process()
    memory = taken.memory_info().vms + MEMORY
    seconds = int(sum(taken.cpu_times()[:2])) + SECONDS
    limits = (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    )
    for kind, most in limits:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))
