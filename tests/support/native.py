"""The demo model's vocabulary in this process: for tests that ask the engine's samplers."""

from __future__ import annotations

import os
from functools import cache

from tuner.demo import demo_model_path
from tuner.engine.llama import LogTap, NativeModel, init
from tuner.engine.sampler import Grammar
from tuner.settings import Settings


@cache
def log() -> LogTap:
    """Kept, since the engine calls it."""
    return LogTap(os.open(os.devnull, os.O_WRONLY))


@cache
def vocabulary() -> NativeModel:
    init()
    return NativeModel(str(demo_model_path()), Settings(n_ctx=1), log(), vocab_only=True)


def matches(grammar: str, text: str) -> bool:
    """Whether the engine takes a text, as a whole, for one of a grammar."""
    model = vocabulary()
    state = Grammar(model, grammar)
    try:
        for token in model.tokenize(text):
            if not state.allows(token):
                return False
            state.accept(token)
        return state.complete
    finally:
        state.close()
