"""The program that tries whether the engine understands a grammar. `grammar_check` starts it."""

from __future__ import annotations

import json
import os
import re
import sys

import psutil

from tuner.engine.bindings import llama_cpp
from tuner.engine.child_limits import limit_memory, limit_time
from tuner.engine.grammar_check import MEMORY, SECONDS
from tuner.engine.lifeline import end_with_parent

_MAX_TRIED = 500
_RULE = re.compile(r"^[ \t]*([a-zA-Z0-9-]+)[ \t]*::=", re.MULTILINE)


def main() -> None:
    """Reads {"grammar", "model"}, writes "understood" or "not understood"."""
    end_with_parent()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    question = json.loads(sys.stdin.buffer.read())
    grammar = question["grammar"].encode()
    vocab = None
    if "<" in question["grammar"]:  # it may name tokens
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        path = bytes.fromhex(question["model"])
        model = llama_cpp.llama_model_load_from_file(path, params)
        vocab = llama_cpp.llama_model_get_vocab(model) if model else None
    limit_memory(psutil.Process().memory_info().vms + MEMORY)
    limit_time(SECONDS)
    # From each rule: one that means itself without end may be met long after the first token.
    names = ("root", *_RULE.findall(question["grammar"])[:_MAX_TRIED])
    understood = all(
        llama_cpp.llama_sampler_init_grammar(vocab, grammar, name.encode()) for name in names
    )
    with answer:
        answer.write("understood" if understood else "not understood")
    sys.stderr.flush()
    os._exit(0)
