"""Chooses tokens through llama.cpp's samplers, in llama.cpp's order (`common_sampler_init` and
`common_sampler_sample`, common/sampling.cpp). What is off is not in the chain."""

from __future__ import annotations

import ctypes
import math
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tuner.engine.bindings import llama_cpp
from tuner.engine.llama import Context, LlamaError, NativeModel
from tuner.sampling import FORBIDDEN, Sampling

STUCK = "The grammar allows nothing that this model can say here: the answer ends unfinished."
SLOW = "The grammar can be read in too many ways by now: the answer ends unfinished."

_SLOW_SECONDS = 0.2  # of the CPU to follow one token, for which grammars take microseconds
_RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: the engine draws one
_MIROSTAT_M = 100  # tokens that Mirostat 1 estimates by
_MIN_KEEP = 1

_Sampler = Any  # llama_sampler *


class _Setting(NamedTuple):
    """All that a sampler is made of."""

    model: NativeModel
    sampling: Sampling
    n_ctx: int  # tokens: nothing looks further back
    seed: int


class _Kind(NamedTuple):
    """One of llama.cpp's samplers."""

    on: Callable[[Sampling], bool]
    make: Callable[[_Setting], _Sampler]
    keeps_first: bool = False  # never drops the likeliest token: of no use where that is taken


def _dry(x: _Setting) -> _Sampler:
    s = x.sampling
    breakers = [text.encode("utf-8", "replace") for text in s.dry_sequence_breakers]
    return llama_cpp.llama_sampler_init_dry(
        x.model.vocab,
        s.dry_multiplier,
        s.dry_base,
        s.dry_allowed_length,
        min(s.dry_penalty_last_n, x.n_ctx),
        (ctypes.c_char_p * len(breakers))(*breakers),
        len(breakers),
    )


_KINDS = {
    "penalties": _Kind(
        lambda s: (
            s.repeat_last_n > 0
            and (s.repeat_penalty != 1 or s.frequency_penalty != 0 or s.presence_penalty != 0)
        ),
        lambda x: llama_cpp.llama_sampler_init_penalties(
            x.model.n_vocab,
            min(x.sampling.repeat_last_n, x.n_ctx),
            x.sampling.repeat_penalty,
            x.sampling.frequency_penalty,
            x.sampling.presence_penalty,
        ),
    ),
    "dry": _Kind(lambda s: s.dry_multiplier > 0 and s.dry_penalty_last_n > 0, _dry),
    "top_n_sigma": _Kind(
        lambda s: s.top_n_sigma > 0,
        lambda x: llama_cpp.llama_sampler_init_top_n_sigma(x.sampling.top_n_sigma),
        keeps_first=True,
    ),
    "top_k": _Kind(
        lambda s: s.top_k > 0,
        lambda x: llama_cpp.llama_sampler_init_top_k(x.sampling.top_k),
        keeps_first=True,
    ),
    "typ_p": _Kind(
        lambda s: s.typical_p < 1,
        lambda x: llama_cpp.llama_sampler_init_typical(x.sampling.typical_p, _MIN_KEEP),
    ),
    "top_p": _Kind(
        lambda s: s.top_p < 1,
        lambda x: llama_cpp.llama_sampler_init_top_p(x.sampling.top_p, _MIN_KEEP),
        keeps_first=True,
    ),
    "min_p": _Kind(
        lambda s: s.min_p > 0,
        lambda x: llama_cpp.llama_sampler_init_min_p(x.sampling.min_p, _MIN_KEEP),
        keeps_first=True,
    ),
    "xtc": _Kind(
        lambda s: s.xtc_probability > 0 and s.xtc_threshold <= 0.5,  # noqa: PLR2004 - as there
        lambda x: llama_cpp.llama_sampler_init_xtc(
            x.sampling.xtc_probability, x.sampling.xtc_threshold, _MIN_KEEP, x.seed
        ),
    ),
    "temperature": _Kind(
        lambda s: s.temperature != 1 or s.dynatemp_range > 0,
        lambda x: llama_cpp.llama_sampler_init_temp_ext(
            x.sampling.temperature, x.sampling.dynatemp_range, x.sampling.dynatemp_exponent
        ),
        keeps_first=True,
    ),
}


class Sampler:
    """The chain of one answer, and its grammar."""

    def __init__(
        self,
        model: NativeModel,
        sampling: Sampling,
        n_ctx: int,
        prompt: Sequence[int] = (),
        said: str = "",
        exempt: Callable[[int], bool] = lambda _: False,
    ):
        """What looks back looks back into the prompt. `said`: what the answer that is continued
        says already. `exempt`: tokens that the grammar need not allow. Raises LlamaError("usage")
        for a token or a grammar that this model does not have."""
        self._model = model
        seed = _RANDOM_SEED if sampling.seed is None else sampling.seed & 0xFFFFFFFF
        samplers = tuple(_samplers(_Setting(model, sampling, n_ctx, seed)))
        self.constrained = bool(sampling.grammar)  # whether the grammar holds now
        self._grammar = Grammar(model, sampling.grammar, said) if sampling.grammar else None
        self._exempt = exempt
        self._slow = False  # the grammar has become so
        self._candidates = _Candidates(model.n_vocab) if sampling.grammar else None
        self._chain = llama_cpp.llama_sampler_chain_init(
            llama_cpp.llama_sampler_chain_default_params()
        )
        for sampler in samplers:
            llama_cpp.llama_sampler_chain_add(self._chain, sampler)
        if {"penalties", "dry"} & set(self.names):
            for token in prompt[-max(sampling.repeat_last_n, sampling.dry_penalty_last_n) :]:
                llama_cpp.llama_sampler_accept(self._chain, token)

    @property
    def names(self) -> tuple[str, ...]:
        """The samplers of the chain, as llama.cpp calls them."""
        count = llama_cpp.llama_sampler_chain_n(self._chain)
        chain = (llama_cpp.llama_sampler_chain_get(self._chain, i) for i in range(count))
        return tuple(llama_cpp.llama_sampler_name(one).decode() for one in chain)

    def sample(self, context: Context) -> int | None:
        """The next token after the last decode; None where the grammar allows no other."""
        if self._grammar is None or self._candidates is None or not self.constrained:
            token: int = llama_cpp.llama_sampler_sample(self._chain, context.handle, -1)
            return token
        return self._by_grammar(context, self._grammar, self._candidates)

    @property
    def unfinished(self) -> str:
        """Why the answer ends where the grammar does not let it end; "" where it does."""
        if self._grammar is None or not self.constrained or self._grammar.complete:
            return ""
        return SLOW if self._slow else STUCK

    def close(self) -> None:
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar is not None:
            self._grammar.close()
            self._grammar = None

    def _by_grammar(
        self, context: Context, grammar: Grammar, candidates: _Candidates
    ) -> int | None:
        """The chain's own choice where the grammar allows it; else a choice among all that it
        allows, which takes far longer to find. llama.cpp aborts on a token that it does not
        allow, so none is accepted unseen. What a grammar's text leaves open may double with each
        token, and the time that it takes with it."""
        if self._slow:
            return None
        token = candidates.chosen(context, self._chain)
        if not grammar.allows(token):
            if self._exempt(token):
                llama_cpp.llama_sampler_accept(self._chain, token)
                return token
            token = candidates.chosen(context, grammar.handle, self._chain)
            if not grammar.allows(token):
                return None
        if llama_cpp.llama_vocab_is_eog(self._model.vocab, token):
            return None
        llama_cpp.llama_sampler_accept(self._chain, token)
        started = time.thread_time()
        grammar.accept(token)
        self._slow = time.thread_time() - started > _SLOW_SECONDS
        return token


class Grammar:
    """Where an answer stands in a grammar."""

    def __init__(self, model: NativeModel, text: str, said: str = ""):
        """`said`: what is written by it already, as far as it allows it."""
        self._model = model
        handle = llama_cpp.llama_sampler_init_grammar(model.vocab, text.encode(), b"root")
        if not handle:
            raise LlamaError("usage", "the engine does not understand the grammar")
        self.handle = handle
        self._one = _Candidates(1)
        for token in model.tokenize(said, parse_special=False):
            if not self.allows(token):
                break
            self.accept(token)

    def allows(self, token: int) -> bool:
        return self._one.allowed(token, self.handle)

    @property
    def complete(self) -> bool:
        """A vocabulary without end tokens cannot say it: then it may be."""
        ends = self._model.end_tokens
        return not ends or self.allows(ends[0])

    def accept(self, token: int) -> None:
        """Goes on by a token that it allows."""
        llama_cpp.llama_sampler_accept(self.handle, token)

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self.handle)


class _Candidates:
    """Tokens with their logits, as samplers take them."""

    def __init__(self, n: int):
        self._n = n
        raw = bytearray(n * ctypes.sizeof(llama_cpp.llama_token_data))
        self._data = (llama_cpp.llama_token_data * n).from_buffer(raw)
        self._ids, self._numbers = memoryview(raw).cast("i"), memoryview(raw).cast("f")
        self._order = memoryview(array("i", range(n)))
        self._logits = array("f", bytes(4 * n))
        self._array = llama_cpp.llama_token_data_array()

    def chosen(self, context: Context, *samplers: _Sampler) -> int:
        """The token that the last of these samplers picks after a decode."""
        logits = llama_cpp.llama_get_logits_ith(context.handle, -1)
        ctypes.memmove(self._logits.buffer_info()[0], logits, 4 * self._n)
        self._ids[::3] = self._order
        self._numbers[1::3] = memoryview(self._logits)
        found = self._apply(samplers)
        token: int = found.data[found.selected].id
        return token

    def allowed(self, token: int, sampler: _Sampler) -> bool:
        """Whether a sampler leaves the only candidate a chance."""
        self._ids[0], self._numbers[1] = token, 1.0
        logit: float = self._apply((sampler,)).data[0].logit
        return logit != -math.inf

    def _apply(self, samplers: Iterable[_Sampler]) -> Any:
        found = self._array
        found.data = ctypes.cast(self._data, llama_cpp.llama_token_data_p)
        found.size, found.selected, found.sorted = self._n, -1, False
        for sampler in samplers:
            llama_cpp.llama_sampler_apply(sampler, ctypes.byref(found))
        return found


def _samplers(x: _Setting) -> Iterator[_Sampler]:
    """Those that are on, in their order; the last one picks."""
    s = x.sampling
    biases = [*_biases(x.model, s), *((token, -math.inf) for token in x.model.suppressed)]
    if biases:
        listed = (llama_cpp.llama_logit_bias * len(biases))(*biases)
        yield llama_cpp.llama_sampler_init_logit_bias(x.model.n_vocab, len(biases), listed)
    greedy = s.temperature <= 0 and s.dynatemp_range <= 0
    if s.mirostat and not greedy:
        yield llama_cpp.llama_sampler_init_temp(s.temperature)
        yield _mirostat(x)
        return
    for name in s.samplers:
        kind = _KINDS[name]
        if kind.on(s) and not (greedy and kind.keeps_first):
            yield kind.make(x)
    if greedy:
        yield llama_cpp.llama_sampler_init_greedy()
    else:
        yield llama_cpp.llama_sampler_init_dist(x.seed)


def _biases(model: NativeModel, sampling: Sampling) -> Iterator[tuple[int, float]]:
    for one in sampling.logit_bias:
        if one.token >= model.n_vocab:
            raise LlamaError(
                "usage",
                f"--logit-bias names the token {one.token}, and the model has {model.n_vocab:,}",
            )
        yield one.token, -math.inf if one.bias <= FORBIDDEN else one.bias


def _mirostat(x: _Setting) -> _Sampler:
    s = x.sampling
    if s.mirostat == 1:
        return llama_cpp.llama_sampler_init_mirostat(
            x.model.n_vocab, x.seed, s.mirostat_ent, s.mirostat_lr, _MIROSTAT_M
        )
    return llama_cpp.llama_sampler_init_mirostat_v2(x.seed, s.mirostat_ent, s.mirostat_lr)
