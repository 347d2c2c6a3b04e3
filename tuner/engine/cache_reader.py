"""Caches beside that of the chat, to compare what the model predicts with each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tuner.engine.abort import AbortFlag, CancelledError
from tuner.engine.llama import (
    DECODE_ABORTED,
    DECODE_ALLOC_FAILED,
    DECODE_OK,
    Context,
    LlamaError,
    LogTap,
    NativeModel,
)
from tuner.engine.loss_run import BrokenModelError, Logits, LossRun
from tuner.engine.protocol import Load, LossesMeasured, MeasureLosses


class CacheReader:
    """One of them, as `LossRun` reads a text with it. Raises LlamaError or CancelledError."""

    def __init__(self, context: Context, n_vocab: int, log: LogTap, abort: AbortFlag) -> None:
        self._context, self._n_vocab = context, n_vocab
        self._log, self._abort = log, abort
        self.close = context.close

    def read(self, tokens: Sequence[int]) -> Logits:
        self._require(self._context.decode_all(tokens))
        return np.ctypeslib.as_array(self._context.logits, (len(tokens), self._n_vocab))

    def decode(self, token: int) -> None:
        self._require(self._context.decode_one(token))
        self._context.synchronize()

    def _require(self, code: int) -> None:
        if code == DECODE_ABORTED or self._abort:
            raise CancelledError
        if code != DECODE_OK:
            kind = "out_of_memory" if code == DECODE_ALLOC_FAILED else "decode_failed"
            raise self._log.failure(kind, f"the engine failed to compute (code {code})")


def measured_losses(
    model: NativeModel,
    load: Load,
    request: MeasureLosses,
    log: LogTap,
    abort: AbortFlag,
    tell: Callable[[float], None],
) -> LossesMeasured:
    """What each pair of types loses with a model that was loaded so. `tell` hears how far it has
    come. Raises LlamaError ("usage" where the text is too short) or CancelledError."""
    needed = request.n_tokens + request.n_decode
    tokens = [model.bos] if model.adds_bos and model.bos >= 0 else []
    tokens += model.tokenize(request.text, parse_special=False)
    if len(tokens) < needed:
        raise LlamaError(
            "usage", f"the text has {len(tokens):,} tokens for this model; {needed:,} are needed"
        )

    def reader(type_k: str, type_v: str, n_ubatch: int) -> CacheReader:
        settings = replace(
            load.settings, n_ctx=needed, type_k=type_k, type_v=type_v, n_ubatch=n_ubatch
        )
        context = Context(model, settings, load.n_threads, log, abort, n_outputs=request.chunk)
        return CacheReader(context, model.n_vocab, log, abort)

    try:
        return LossesMeasured(LossRun(reader, request, tokens[:needed], tell).run())
    except BrokenModelError:
        raise LlamaError(
            "decode_failed", "what this model computes are no numbers: its file is broken"
        ) from None
