"""A loaded model and how it answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tuner.engine.abort import AbortFlag, CancelledError
from tuner.engine.answer import Answer
from tuner.engine.blocks import Room, in_ram_or
from tuner.engine.cache_reader import measured_losses
from tuner.engine.free_cores import FreeCores
from tuner.engine.kept import Branch
from tuner.engine.llama import (
    DECODE_ABORTED,
    DECODE_ALLOC_FAILED,
    DECODE_NO_SLOT,
    DECODE_OK,
    Context,
    LlamaError,
    LogTap,
    NativeModel,
)
from tuner.engine.moving import NO_ROOM, Mover, pair_of
from tuner.engine.prefix_cache import PrefixCache
from tuner.engine.prompts import Prompts, TokenizedPrompt
from tuner.engine.protocol import (
    Done,
    Generate,
    Load,
    Loaded,
    LossesMeasured,
    MeasureLosses,
    MeasureSpeed,
    Message,
    Notice,
    Progress,
    PromptProgress,
    Reshape,
    RestoreState,
    SaveState,
    SpeedMeasured,
    StateRestored,
    StateSaved,
    Timed,
)
from tuner.engine.sampler import Sampler
from tuner.engine.sequence_state import StateError
from tuner.engine.speed_run import SpeedRun
from tuner.engine.template_process import TemplateStoppedError
from tuner.engine.thread_trial import faster
from tuner.engine.voice import Voice
from tuner.settings import Settings

_FLUSH_SECONDS = 0.05  # that text waits at most, where tokens come faster
_PROGRESS_STEP = 0.01  # of the whole, before progress is told again
_LOADING_SHARE = 0.95  # of the progress; the rest is context and warm-up
_WARM_UP_TOKENS = 4  # one alone would not use the matrix kernels (AMX) that may be missing
_NODE_FLOP = 4e9  # what even a slow core computes in 100 ms


class LoadedModel:
    """One loaded model with one conversation in its cache."""

    def __init__(
        self, request: Load, log: LogTap, abort: AbortFlag, voice: Voice, content: str = ""
    ):
        """Loads, warms up and emits Progress. `content`: what tells its weights from others', for
        states that are saved. Raises LlamaError or CancelledError."""
        self._abort = abort
        self._voice = voice
        self._log = log
        self._request = request
        self._pieces: dict[int, bytes | None] = {}  # None: this token ends an answer
        self._cores = FreeCores(request.n_threads, request.exact_threads)
        self._exact_threads = request.exact_threads
        self._faster_threads = 0
        self._threads_tried: tuple[Timed, ...] = ()
        voice.doing("load")
        started = time.monotonic()
        with log.recording():
            self._model = self._load_model(request)
            try:
                self._context = self._make_context(request)
            except BaseException:
                self._model.close()
                raise
            self._prompts = self._make_prompts(request)
            self._cache = self._new_cache(request.kept_bytes)
            which = f"{request.fingerprint}{content}"
            self._mover = Mover(which, self._open_context, request.n_threads, self._moved)
            self._chunk = self._prompt_chunk(request.settings)
            self.loaded = Loaded(
                n_ctx=self._context.n_ctx,
                buffers=log.buffers,
                seconds=time.monotonic() - started,
                chat_template=self._prompts.template.source,
                warnings=self._prompts.warnings,
                use_extra_bufts=request.settings.use_extra_bufts,
                think=self._prompts.template.thinking.offered,
                usual_think=self._prompts.template.thinking.usual,
                faster_threads=self._faster_threads,
                threads_tried=self._threads_tried,
            )

    def _make_prompts(self, request: Load) -> Prompts:
        try:
            self._voice.doing("template")
            return Prompts(self._model, request.chat_template, lambda: self._abort)
        except BaseException as error:
            self._context.close()
            self._model.close()
            if isinstance(error, TemplateStoppedError):
                raise CancelledError from None
            raise

    def close(self) -> None:
        self._prompts.close()
        self._context.close()
        self._model.close()

    # ------------------------------------------------------------ loading

    def _load_model(self, request: Load) -> NativeModel:
        last = 0.0

        def progress(fraction: float) -> bool:
            nonlocal last
            if fraction - last >= _PROGRESS_STEP or fraction >= 1.0:
                last = fraction
                self._voice(Progress(fraction * _LOADING_SHARE))
            return not self._abort

        try:
            model = NativeModel(
                request.path,
                request.settings,
                self._log,
                progress=progress,
                left_out=request.left_out,
            )
        except LlamaError:
            if self._abort:
                raise CancelledError from None
            raise
        if not model.has_tokens or model.has_encoder:
            model.close()
            raise LlamaError(
                "refused", "this model cannot chat: it has no vocabulary or needs an encoder"
            )
        return model

    def _open_context(self, settings: Settings) -> Context:
        return Context(self._model, settings, self._request.n_threads, self._log, self._abort)

    def _new_cache(self, kept_bytes: int) -> PrefixCache:
        # A state has a window alone, also of a cache that keeps more (`swa_full`).
        window, keeps_a_state = self._model.n_window, self._model.keeps_a_state
        settings = self._request.settings
        return PrefixCache(self._context, window, keeps_a_state, kept_bytes, settings, self._fitted)

    def _fitted(self, branch: Branch) -> Branch | None:
        """What was set aside of a cache with other settings, for the one that is; None: it cannot
        be had. Raises CancelledError."""
        assert branch.settings is not None
        try:
            return self._mover.fitted(branch, branch.settings, self._request.settings)
        except StateError as error:
            self._log.note(f"a branch was let go: {error}")
            return None

    def _make_context(self, request: Load) -> Context:
        context = self._usable_context(request.settings)
        try:
            self._try_threads(context, request)
        except BaseException:
            context.close()
            raise
        self._voice(Progress(1.0))
        return context

    def _usable_context(self, settings: Settings) -> Context:
        """A context that has computed."""
        context = self._open_context(settings)
        try:
            if not context.has_memory:
                raise LlamaError("refused", "this model cannot chat: it has no cache")
            self._warm_up(context)
        except BaseException:
            context.close()
            raise
        return context

    def _warm_up(self, context: Context) -> None:
        """Computes a few tokens for nothing: the first answer comes sooner, and memory or
        instructions that are missing show now, where the caller can still choose otherwise."""
        token = max(0, self._model.bos)
        context.use_threads(self._cores.n_threads())
        for code in (context.decode([token] * _WARM_UP_TOKENS), context.decode_one(token)):
            if code == DECODE_ABORTED or self._abort:
                raise CancelledError
            if code != DECODE_OK:
                raise self._log.failure(
                    "out_of_memory" if code == DECODE_ALLOC_FAILED else "load_failed",
                    "the model was loaded but cannot compute",
                )
        context.synchronize()
        context.clear()

    def _try_threads(self, context: Context, request: Load) -> None:
        """The faster of two numbers of threads is used from now on."""
        if not request.other_threads:
            return
        token = max(0, self._model.bos)

        def decode(n_threads: int) -> None:
            context.use_threads(n_threads)
            code = context.decode_one(token)
            if code == DECODE_ABORTED or self._abort:
                raise CancelledError
            if code != DECODE_OK:
                raise self._log.failure("load_failed", "the model was loaded but cannot compute")
            context.synchronize()

        found = faster(request.n_threads, request.other_threads, decode)
        context.clear()
        if found:
            self._faster_threads, self._threads_tried = found
            self._cores = FreeCores(self._faster_threads, request.exact_threads)

    def _prompt_chunk(self, settings: Settings) -> int:
        """Tokens per llama_decode of a prompt: a whole ubatch, but on the CPU so few that one
        node of the graph is short, since the engine looks at the abort flag between nodes. As many
        as that allows, since of a small batch much of the time goes to reading the weights. Not by
        the clock: the same prompt must always be cut in the same places."""
        n_ubatch = settings.n_ubatch
        if settings.n_gpu_layers > 0:
            return n_ubatch
        flop_per_token = 2 * self._model.n_params / max(1, 7 * self._model.n_layer)
        most = self._request.n_threads * _NODE_FLOP / max(1.0, flop_per_token)
        return min(n_ubatch, max(32, int(most) // 32 * 32))

    # ------------------------------------------------------------ answering

    def count_tokens(self, messages: Sequence[Message], think: str = "") -> int:
        """Tokens of a conversation with the opening of the next answer."""
        self._voice.doing("template")
        try:
            return len(self._prompts.prompt(messages, think=think).tokens)
        except TemplateStoppedError:
            raise LlamaError("decode_failed", "the count was stopped") from None

    def generate(self, request: Generate) -> Done:
        """Emits PromptProgress and Text; returns the final event. Raises LlamaError."""
        try:
            sent = self._prompt(request)
        except TemplateStoppedError:
            return Done("stopped", 0, 0, 0, 0.0, 0.0, len(self._cache.tokens))
        self._voice.doing("prompt")
        prompt, stops = sent.tokens, sent.rendered.stops
        if len(prompt) >= self._context.n_ctx:
            raise LlamaError(
                "context_full",
                f"the conversation has {len(prompt):,} tokens and the context holds "
                f"{self._context.n_ctx:,}: start a new one, or load with a larger context",
            )
        started = time.monotonic()
        # How many threads share a sum decides how it is rounded (ggml-cpu's ops.cpp, flash
        # attention): the same seed is to give the same answer on a busy machine, too.
        self._cores.exact = self._exact_threads or request.sampling.seed is not None
        # And whatever was in the cache before.
        exact = request.sampling.seed is not None
        try:
            reused = self._reused(request, sent, exact=exact)
        except CancelledError:
            return Done("stopped", 0, 0, 0, 0.0, 0.0, len(self._cache.tokens))
        joining = self._cache.n_joining
        reason = "stopped"
        answer = Answer(self._prompts.splitter(sent), stops, request.sampling.stop)
        with self._log.recording():
            asked = 0
            if self._cache.needs_checkpoints:  # else it is not asked, and the text is long
                asked = self._prompts.start_of_last(sent, request.messages)
            complete = self._read_prompt(prompt, reused, asked)
            read, cpu = time.monotonic(), time.process_time()
            if complete:
                self._voice.doing("answer")
                reason = self._answer(request, answer, stops, prompt)
        return Done(
            reason=reason,
            n_prompt=len(prompt),
            n_reused=reused + joining,
            n_decoded=answer.n_tokens,
            prompt_seconds=read - started,
            decode_seconds=time.monotonic() - read,
            n_ctx_used=len(self._cache.tokens),
            decode_cpu_seconds=time.process_time() - cpu,
            thought_seconds=answer.thought_seconds,
            chat_template=sent.rendered.source,
            read_again=self._cache.why,
        )

    # ------------------------------------------------------------ moving

    def save(self, request: SaveState) -> StateSaved:
        """Writes what the cache holds to a file."""
        self._voice.doing("state")
        return self._mover.save(request, self._context, self._cache, self._request.settings)

    def restore(self, request: RestoreState) -> StateRestored:
        """Fills the cache with what a file holds."""
        self._voice.doing("state")
        return self._mover.restore(request, self._context, self._cache, self._request.settings)

    def reshape(self, request: Reshape) -> Loaded:
        """Another context on the same weights, with what the cache holds. Raises LlamaError,
        CancelledError, or whatever else goes wrong; the context is then again as it was, or
        `usable` is false."""
        self._voice.doing("state")
        started, before = time.monotonic(), self._request.settings
        room = in_ram_or(request.folder)
        branch, why = self._taken_out(room)
        self._context.close()
        try:
            moved = branch
            if branch is not None:
                try:
                    pairs = pair_of(before), pair_of(request.settings)
                    moved = self._mover.moved(branch, *pairs, room)
                except StateError as error:
                    moved, why = None, str(error)
            with self._log.recording():
                self._context = self._usable_context(request.settings)
                buffers = self._log.buffers
        except BaseException:  # MemoryError, a thread that cannot be started
            self._context = self._open_context(before)
            self._go_on(before, branch, request.kept_bytes)
            raise
        if not self._go_on(request.settings, moved, request.kept_bytes):
            why = why or "the engine did not take it"
        weights = [buffer for buffer in self.loaded.buffers if buffer.kind == "weights"]
        self.loaded = replace(
            self.loaded,
            n_ctx=self._context.n_ctx,
            buffers=(*weights, *buffers),
            seconds=time.monotonic() - started,
            n_moved=len(self._cache.tokens),
            not_moved="" if self._cache.tokens else why,
        )
        return self.loaded

    def _moved(self, fraction: float) -> None:
        """So far a conversion is."""
        if self._abort:
            raise CancelledError
        self._voice(Progress(fraction))

    @property
    def usable(self) -> bool:
        """Whether it has a context."""
        return bool(self._context.handle)

    def _taken_out(self, room: Room) -> tuple[Branch | None, str]:
        """All that the cache holds, or why not."""
        if not self._cache.tokens:
            return None, ""
        state = self._context.state(partial=False, room=room)
        return (self._cache.branch(state), "") if state is not None else (None, NO_ROOM)

    def _go_on(self, settings: Settings, branch: Branch | None, kept_bytes: int) -> bool:
        """With a context of these settings, and this in its cache."""
        self._request = replace(self._request, settings=settings)
        self._chunk = self._prompt_chunk(settings)
        others = self._cache.branches
        self._cache = self._new_cache(kept_bytes)
        done = branch is None or self._cache.put(branch)
        # They are converted once they are asked for, if ever, and stay what they are until then.
        self._cache.take_over(each for each in others if len(each.tokens) < self._context.n_ctx)
        return done

    # ------------------------------------------------------------ measuring

    def measure_speed(self, request: MeasureSpeed) -> SpeedMeasured:
        """Emits Progress; returns the final event. Raises LlamaError or CancelledError."""
        self._cores.exact = True
        n_threads = self._cores.n_threads()
        self._context.use_threads(n_threads)
        run = SpeedRun(
            self,
            request,
            chunk=self._chunk,
            n_ctx=self._context.n_ctx,
            n_vocab=self._model.n_vocab,
            tell=lambda fraction: self._voice(Progress(fraction)),
        )
        self._voice.doing("prompt")
        try:
            with self._log.recording():
                run.run()
        finally:
            self._cache.forget()
        return SpeedMeasured(tuple(run.prompts), tuple(run.decodes), n_threads)

    def measure_losses(self, request: MeasureLosses) -> LossesMeasured:
        """Emits Progress; returns the final event. Raises LlamaError or CancelledError."""
        self._voice.doing("prompt")
        with self._log.recording():
            return measured_losses(
                self._model,
                self._request,
                request,
                self._log,
                self._abort,
                lambda fraction: self._voice(Progress(fraction)),
            )

    def compute(self, tokens: Sequence[int]) -> None:
        """Appends tokens (at most n_batch) to the engine's cache, unknown to ours. Raises
        LlamaError or CancelledError."""
        context = self._context
        code = context.decode_one(tokens[0]) if len(tokens) == 1 else context.decode(tokens)
        if code == DECODE_ABORTED or self._abort:
            raise CancelledError
        if code != DECODE_OK:
            raise self._decode_error(code)
        context.synchronize()

    def clear(self) -> None:
        """Forgets the conversation."""
        self._cache.forget()

    def _prompt(self, request: Generate) -> TokenizedPrompt:
        """The prompt; what there is to say of it is told."""
        self._voice.doing("template")
        prompt = self._prompts.prompt(
            request.messages, continue_last=request.continue_last, think=request.think
        )
        for notice in self._prompts.news(prompt, request.think):
            self._voice(Notice(notice))
        return prompt

    def _reused(self, request: Generate, sent: TokenizedPrompt, *, exact: bool) -> int:
        """With how many of its tokens the cache begins now. Raises CancelledError where a branch
        was to be converted, which is then as it was."""
        stays = partial(self._prompts.turns, sent, request.messages)
        return self._cache.reuse(
            sent.tokens,
            stays=stays if request.may_move else None,
            exact=exact,
            room_aside=self._room_aside(request, sent.tokens),
        )

    def _room_aside(self, request: Generate, prompt: Sequence[int]) -> int | None:
        """Cells that neither a prompt nor its answer needs, where something comes back."""
        if not request.rest_returns:
            return None
        n_answer = request.sampling.max_tokens or self._context.n_ctx
        return max(0, self._context.n_ctx - len(prompt) - n_answer)

    def _read_prompt(self, prompt: Sequence[int], start: int, asked: int) -> bool:
        """False where it was stopped; what is done by then stays in the cache. `asked`: after how
        many tokens the last question begins."""
        joins_at, there = self._cache.joins_at, start + self._cache.n_joining
        total, n_read = len(prompt) - there, 0
        self._voice(PromptProgress(0, total, there))
        at, ends = start, [*self._cache.checkpoints(prompt, [asked]), len(prompt)]
        if joins_at is not None:
            ends = sorted({*ends, joins_at})
        while at < len(prompt):
            if self._abort:
                return False
            if at == ends[0]:
                del ends[0]
                if at == joins_at:
                    at = self._cache.join()
                else:
                    self._cache.keep_checkpoint()
            end = min(at + self._chunk, ends[0])
            part = prompt[at:end]
            self._context.use_threads(self._cores.n_threads())
            code = self._context.decode(part)
            if code == DECODE_ABORTED:
                self._cache.repair()
                return False
            if code != DECODE_OK:
                raise self._decode_error(code)
            self._cache.tokens.extend(part)
            at = end
            n_read += len(part)
            if at == len(prompt):
                # A GPU and an RPC server compute on after the call: what they take for it is this
                # prompt's time, and not waited for as the answer's first token.
                self._context.synchronize()
            self._voice(PromptProgress(n_read, total, there))
        return not self._abort

    def _answer(
        self, request: Generate, answer: Answer, stops: tuple[str, ...], prompt: Sequence[int]
    ) -> str:
        """Samples until something ends it. Returns the reason."""
        limit = request.sampling.max_tokens
        ends = (*stops, *request.sampling.stop)
        said = request.messages[-1].content if request.continue_last else ""

        def opens_thought(token: int) -> bool:
            mark = self._prompts.mark_tokens.get(token)
            return answer.opens_thought(self._piece(token, stops) or b"", mark)

        sampler = Sampler(
            self._model, request.sampling, self._context.n_ctx, prompt, said, opens_thought
        )
        flushed = last = 0.0
        try:
            while limit is None or answer.n_tokens < limit:
                sampler.constrained = answer.answering
                token = sampler.sample(self._context)
                if token is None:
                    if why := sampler.unfinished:
                        self._voice(Notice(why))
                    return "end"
                mark = self._prompts.mark_tokens.get(token)
                piece = self._piece(token, stops if answer.thinking else ends)
                # What ends a section is in some vocabularies taken for the answer's end.
                if piece is None and not (
                    answer.thinking and self._prompts.marks.ends_section(mark)
                ):
                    return "end"
                if mark is not None:
                    answer.mark(mark)
                elif piece is not None:
                    answer.add(piece)
                if answer.ended:
                    return "end"
                now = time.monotonic()
                if now - flushed + (now - last) > _FLUSH_SECONDS:  # the next one would be late
                    for event in answer.take():
                        self._voice(event)
                        flushed = now
                last = now
                if self._abort:
                    return "stopped"
                if answer.n_tokens == limit:
                    break
                if len(self._cache.tokens) >= self._context.n_ctx:
                    return "context_full"
                self._context.use_threads(self._cores.n_threads())
                code = self._context.decode_one(token)
                if code == DECODE_OK:
                    self._cache.tokens.append(token)
                elif code == DECODE_ABORTED:
                    self._cache.repair()
                    return "stopped"
                elif code == DECODE_NO_SLOT:
                    return "context_full"
                else:
                    raise self._decode_error(code)
            return "max_tokens"
        finally:
            sampler.close()
            for event in answer.finish():
                self._voice(event)

    def _piece(self, token: int, stops: tuple[str, ...]) -> bytes | None:
        """A token's bytes; None for one that ends an answer: the model's own end tokens, and a
        control token that is written like a stop text and so has no bytes to be seen by."""
        try:
            piece = self._pieces[token]
        except KeyError:
            ends = self._model.is_end(token)
            piece = self._pieces[token] = None if ends else self._model.piece(token)
        if piece == b"" and stops and self._model.token_text(token) in stops:
            return None
        return piece

    def _decode_error(self, code: int) -> LlamaError:
        if code == DECODE_NO_SLOT:
            return LlamaError("context_full", "the context is full")
        self._cache.repair()
        kind = "out_of_memory" if code == DECODE_ALLOC_FAILED else "decode_failed"
        return self._log.failure(kind, f"the engine failed to compute (code {code})")
