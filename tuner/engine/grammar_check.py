"""Whether the engine understands a grammar, asked in a process of its own before a model is loaded.

A grammar is a foreign program: llama.cpp reads one that repeats something five to three times until
memory ends, and overflows its stack on brackets by the thousand. So a small child
(`grammar_child`) tries it, under the system's limits, and may die of it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tuner.child_environment import child_environment
from tuner.engine.lifeline import child_command
from tuner.errors import EngineError, UsageError
from tuner.safe_text import cut
from tuner.units import MIB

SECONDS = 10  # of the CPU; the longest grammars take some hundredths
MEMORY = 128 * MIB  # beyond what the engine takes to be there
_START_SECONDS = 60.0


def require_grammar(text: str, model: Path, named: str) -> None:
    """Raises UsageError where the engine does not understand a grammar; `named`: as the message
    calls it. `model`: whose tokens it may name."""
    question = json.dumps({"grammar": text, "model": os.fsencode(model).hex()}).encode()
    try:
        done = subprocess.run(
            child_command("tuner.engine.grammar_child"),
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
