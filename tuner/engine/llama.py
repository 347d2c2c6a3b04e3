"""A thin typed wrapper over llama_cpp's low-level API; its samplers are in `sampler.py`.

Nothing here decides anything. Lines that the engine logs go to `LogTap`; errors are raised as
`LlamaError` with the reason taken from them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from tuner.engine.abort import AbortFlag
from tuner.engine.bindings import llama_cpp
from tuner.engine.blocks import Block, Room
from tuner.engine.libraries import GgmlLibraries
from tuner.engine.log_lines import failure_reason, parse_buffers
from tuner.engine.probe import engine_folder
from tuner.engine.special_tokens import ends_by_text, stated
from tuner.engine.turned_keys import turns_quantized_keys
from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.footprint import Buffer
from tuner.model.tensors import EXPERT_TENSORS
from tuner.settings import CONTEXT_PADDING, Settings
from tuner.units import padded

_FLASH_ATTN = {
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
}
_LEVEL_DEBUG, _LEVEL_WARN, _LEVEL_ERROR, _LEVEL_CONT = 1, 3, 4, 5  # ggml.h

_SPECIAL: int = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
_NO_VOCABULARY = 0  # LLAMA_VOCAB_TYPE_NONE

# A sequence beside the one that is read. Cells know 256 of them (LLAMA_MAX_SEQ, llama-kv-cells.h),
# whatever `n_seq_max` is, which bounds only what is decoded and saved; no memory is for any of them
# where the cache is one for all.
_ASIDE = 1

# llama_decode (llama.h), and what llama_context::decode makes of GGML_STATUS_ALLOC_FAILED.
DECODE_OK, DECODE_NO_SLOT, DECODE_ABORTED = 0, 1, 2
DECODE_ALLOC_FAILED = -2

libraries = GgmlLibraries(engine_folder())


class LlamaError(Exception):
    """The engine failed; `kind` as in EngineError, the message is its own reason."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class LogTap:
    """Receives every line that the engine logs: all but debug lines go to `fd`, and while a
    `recording` is open they are kept, so that sizes and reasons can be read from them. `fd` stays
    open, and the newest one alive, as long as the engine may call it."""

    _called: ClassVar[LogTap | None] = None

    def __init__(self, fd: int):
        self._fd = fd
        self._level = 0
        self._lines: list[str] | None = None
        self._complaints: list[str] = []
        self._callback = llama_cpp.llama_log_callback(self._receive)
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))
        LogTap._called = self

    @contextlib.contextmanager
    def recording(self) -> Iterator[LogTap]:
        """Keeps the lines logged inside."""
        self._lines, self._complaints = [], []
        try:
            yield self
        finally:
            self._lines = None

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The buffers named so far in this recording."""
        return parse_buffers(self._lines or ())

    def failure(self, kind: str, message: str) -> LlamaError:
        """A failure of this recording, with the engine's own reason."""
        reason = failure_reason(self._complaints)
        return LlamaError(
            reason.kind or kind, f"{message}: {reason.text}" if reason.text else message
        )

    def complained(self, text: str) -> bool:
        """Whether a complaint of the last recording has this in it."""
        return any(text in line for line in self._complaints)

    def note(self, text: str) -> None:
        """A line of kvchat's own among the engine's."""
        with contextlib.suppress(OSError):
            os.write(self._fd, f"kvchat: {text}\n".encode())

    def _receive(self, level: int, text: bytes, _user_data: object) -> None:
        if level != _LEVEL_CONT:
            self._level = level
        if self._level == _LEVEL_DEBUG:
            return
        with contextlib.suppress(OSError):
            os.write(self._fd, text)
        if self._lines is not None:
            line = text.decode("utf-8", "replace")
            self._lines.append(line)
            if self._level in (_LEVEL_WARN, _LEVEL_ERROR):
                self._complaints.append(line)


class NativeModel:
    """The engine's own handle of a model, or under `dry` its shape without any memory."""

    def __init__(
        self,
        path: str,
        settings: Settings,
        log: LogTap,
        *,
        dry: bool = False,
        vocab_only: bool = False,
        progress: Callable[[float], bool] | None = None,
        left_out: Collection[str] = (),
    ):
        """`progress` gets 0.0 to 1.0 and returns False to cancel; devices named in `left_out` are
        not touched. `vocab_only`: the header alone is read, it can tokenize and nothing else.
        Raises LlamaError."""
        params = llama_cpp.llama_model_default_params()
        # A machine with a visible GPU keeps using it at 0 layers (output, long prompts): that
        # is the engine's own way and what the footprint counts.
        params.n_gpu_layers = settings.n_gpu_layers
        params.split_mode = llama_cpp.LLAMA_SPLIT_MODE_LAYER
        params.use_extra_bufts = settings.use_extra_bufts
        # Never left to the engine: its own default depends on what is free at that moment.
        split = (ctypes.c_float * llama_cpp.llama_max_devices())(*(settings.tensor_split or (1.0,)))
        params.tensor_split = split
        overrides = _experts_on_cpu(settings.n_cpu_moe)
        if overrides is not None:
            params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        if left_out:
            devices = libraries.offload_devices(left_out)
            listed = (ctypes.c_void_p * (len(devices) + 1))(*devices, None)
            params.devices = ctypes.cast(listed, ctypes.c_void_p)
        params.vocab_only = vocab_only
        if dry:
            params.no_alloc = True
            params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE  # any other aborts with no_alloc
        callback = llama_cpp.llama_progress_callback(
            (lambda fraction, _: progress(fraction)) if progress else (lambda _f, _u: True)
        )
        params.progress_callback = callback
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            raise log.failure("load_failed", "the engine could not load the model")
        self.handle = model
        self.vocab = llama_cpp.llama_model_get_vocab(model)
        self._piece_buffer = ctypes.create_string_buffer(256)
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(model)
        self.n_window: int = llama_cpp.llama_model_n_swa(model)
        self.n_layer: int = llama_cpp.llama_model_n_layer(model)
        self.n_params: int = llama_cpp.llama_model_n_params(model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        kind = llama_cpp.llama_vocab_type(self.vocab)
        self.defaults: Mapping[str, int] = self._defaults(kind)
        self.special: Mapping[str, int] = stated(self)
        self.bos: int = self.special.get("bos_token", -1)
        self._assumed_eos = self._eos_by_default(kind)
        self.adds_bos: bool = llama_cpp.llama_vocab_get_add_bos(self.vocab)
        self.has_tokens: bool = kind != _NO_VOCABULARY
        self.has_encoder: bool = llama_cpp.llama_model_has_encoder(model)
        self.keeps_a_state: bool = llama_cpp.llama_model_is_recurrent(
            model
        ) or llama_cpp.llama_model_is_hybrid(model)

    def close(self) -> None:
        if self.handle:
            llama_cpp.llama_model_free(self.handle)
            self.handle = None

    def metadata(self, key: str) -> str | None:
        """A value of the file as text, arrays apart; None where it has no such key."""
        name = key.encode()
        size: int = llama_cpp.llama_model_meta_val_str(self.handle, name, None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        llama_cpp.llama_model_meta_val_str(self.handle, name, buffer, len(buffer))
        return buffer.raw[:size].decode("utf-8", "replace")

    def metadata_keys(self) -> list[str]:
        """All keys of the file whose values are no arrays."""
        found = []
        buffer = ctypes.create_string_buffer(1 << 16)  # longer than the format allows
        for index in range(llama_cpp.llama_model_meta_count(self.handle)):
            llama_cpp.llama_model_meta_key_by_index(self.handle, index, buffer, len(buffer))
            found.append(buffer.value.decode("utf-8", "replace"))
        return found

    def token_text(self, token: int) -> str:
        """How the vocabulary writes a token; "" for none (-1)."""
        if token < 0:
            return ""
        text: bytes = llama_cpp.llama_vocab_get_text(self.vocab, token) or b""
        return text.decode("utf-8", "replace")

    def added_tokens(self) -> Iterator[tuple[int, str, bool]]:
        """The vocabulary's special (true) and user-defined (false) tokens, with their texts."""
        attributes, vocab = llama_cpp.llama_vocab_get_attr, self.vocab
        added = _SPECIAL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
        for token in range(self.n_vocab):
            attribute = attributes(vocab, token)
            if attribute & added:
                yield token, self.token_text(token), bool(attribute & _SPECIAL)

    def is_special(self, token: int) -> bool:
        """Whether a token is one of the format's, control or unknown, not of the text."""
        return bool(llama_cpp.llama_vocab_get_attr(self.vocab, token) & _SPECIAL)

    def is_end(self, token: int) -> bool:
        """Whether a token ends a generation."""
        return token != self._assumed_eos and bool(llama_cpp.llama_vocab_is_eog(self.vocab, token))

    def _defaults(self, kind: int) -> Mapping[str, int]:
        """The special tokens of a vocabulary's format, where it has some."""
        if kind == llama_cpp.LLAMA_VOCAB_TYPE_BPE:
            return {}
        return {
            "bos_token": llama_cpp.llama_vocab_bos(self.vocab),
            "eos_token": llama_cpp.llama_vocab_eos(self.vocab),
            "unk_token": 0 if kind == llama_cpp.LLAMA_VOCAB_TYPE_SPM else -1,
        }

    def _eos_by_default(self, kind: int) -> int:
        """The token that llama.cpp takes for a BPE vocabulary's EOS though neither the file nor
        its text says so; -1 for none."""
        eos: int = llama_cpp.llama_vocab_eos(self.vocab)
        stated = eos == self.special.get("eos_token") or ends_by_text(self.token_text(eos))
        return eos if kind == llama_cpp.LLAMA_VOCAB_TYPE_BPE and not stated else -1

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """All tokens that end a generation, for all that the engine knows."""
        is_end = llama_cpp.llama_vocab_is_eog
        return tuple(token for token in range(self.n_vocab) if is_end(self.vocab, token))

    @cached_property
    def turns_quantized_keys(self) -> bool:
        """Whether the engine can turn those of a cache of this model."""
        arch = self.metadata("general.architecture") or ""

        def number(key: str) -> int:
            value = self.metadata(f"{arch}.{key}") or ""
            return int(value) if value.isdecimal() else 0

        return turns_quantized_keys(number)

    @cached_property
    def suppressed(self) -> tuple[int, ...]:
        """Tokens that the file says are never to be chosen (tokenizer.ggml.suppress_tokens)."""
        count = ctypes.c_int32()
        found = llama_cpp.llama_vocab_get_suppress_tokens(self.vocab, ctypes.byref(count))
        return tuple(found[: count.value]) if found and count.value else ()

    def tokenize(self, text: str, *, parse_special: bool = True) -> list[int]:
        """Tokens of a text, none added; its special tokens are understood, or are text, too."""
        data = text.encode("utf-8", "replace")  # a lone surrogate has no bytes
        size, count = len(data) + 8, -1
        for _ in range(2):  # the first one says how many there are
            tokens = (llama_cpp.llama_token * size)()
            count = llama_cpp.llama_tokenize(
                self.vocab, data, len(data), tokens, size, False, parse_special
            )
            if count >= 0:
                break
            size = -count
        return list(tokens[: max(0, count)])

    def piece(self, token: int) -> bytes:
        """The bytes of a token; a control token has none. May be part of a character."""
        buffer = self._piece_buffer
        count = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, False)
        if count < 0:
            self._piece_buffer = ctypes.create_string_buffer(-count)
            return self.piece(token)
        return bytes(buffer.raw[:count])


class Context:
    """A model's cache and compute buffers for one conversation (sequence 0)."""

    def __init__(
        self,
        model: NativeModel,
        settings: Settings,
        n_threads: int,
        log: LogTap,
        abort: AbortFlag | None = None,
        n_outputs: int = 1,
    ):
        """`n_outputs`: tokens of one decode that may have logits; a chat samples from one. Raises
        LlamaError."""
        params = llama_cpp.llama_context_default_params()
        # The engine pads the context by itself, but bounds the batch by what was asked for.
        params.n_ctx = padded(settings.n_ctx, CONTEXT_PADDING)
        params.n_batch = settings.n_batch
        params.n_ubatch = settings.n_ubatch
        params.n_outputs_max = n_outputs
        params.n_threads = n_threads
        params.n_threads_batch = n_threads
        params.flash_attn_type = _FLASH_ATTN[settings.flash_attn]
        params.type_k = CACHE_TYPES[settings.type_k].ggml
        params.type_v = CACHE_TYPES[settings.type_v].ggml
        params.swa_full = settings.swa_full
        self._log, self._stopped = log, (llama_cpp.ggml_abort_callback(), ctypes.c_void_p())
        if abort is not None:
            function = ctypes.cast(abort.function, llama_cpp.ggml_abort_callback)
            self._stopped = function, abort.address
            params.abort_callback, params.abort_callback_data = self._stopped
        context = llama_cpp.llama_init_from_model(model.handle, params)
        if not context:
            raise log.failure("load_failed", "the engine could not create the context")
        self._n_threads = n_threads
        self._keys_turn = not CACHE_TYPES[settings.type_k].quantized or model.turns_quantized_keys
        self.handle = context
        self._memory = llama_cpp.llama_get_memory(context)
        self.has_memory = bool(self._memory)
        self.n_ctx: int = llama_cpp.llama_n_ctx_seq(context)
        self._one = (llama_cpp.llama_token * 1)()
        self._one_batch = llama_cpp.llama_batch_get_one(self._one, 1)

    def close(self) -> None:
        if self.handle:
            llama_cpp.llama_free(self.handle)
            self.handle = None

    def breakdown(self) -> tuple[Buffer, ...] | None:
        """Exact sizes by buffer type, where they can be had (x86-64 Linux)."""
        return libraries.breakdown(llama_cpp._lib, self.handle)

    def decode(self, tokens: Sequence[int]) -> int:
        """Appends tokens (at most n_batch) to the cache and computes the logits of the last.
        Returns llama_decode's code: 0, 1 no slot, 2 aborted, negative for failures."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        code: int = llama_cpp.llama_decode(self.handle, batch)
        return code

    def decode_all(self, tokens: Sequence[int]) -> int:
        """`decode` with the logits of every token, at most `n_outputs` of them."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        wanted = (ctypes.c_int8 * len(tokens))(*[1] * len(tokens))
        batch.logits = ctypes.cast(wanted, ctypes.POINTER(ctypes.c_int8))
        code: int = llama_cpp.llama_decode(self.handle, batch)
        return code

    @property
    def logits(self) -> Any:
        """A pointer to the float32 logits of the last decode, row after row."""
        return llama_cpp.llama_get_logits(self.handle)

    def decode_one(self, token: int) -> int:
        """`decode` of one token, without building anything."""
        self._one[0] = token
        code: int = llama_cpp.llama_decode(self.handle, self._one_batch)
        return code

    def use_threads(self, n_threads: int) -> None:
        """From the next decode on."""
        if n_threads != self._n_threads:
            self._n_threads = n_threads
            llama_cpp.llama_set_n_threads(self.handle, n_threads, n_threads)

    def synchronize(self) -> None:
        """Waits for what a GPU still computes."""
        llama_cpp.llama_synchronize(self.handle)

    def cut(self, length: int) -> bool:
        """Removes everything from position `length` on. False where the memory cannot (a
        recurrent state); it is then unchanged."""
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, 0, length, -1))

    @property
    def moves(self) -> bool:
        """Whether positions can be shifted: not those of states, of sliding windows beside other
        caches, of several dimensions, nor those of some quantized keys."""
        return self._keys_turn and bool(llama_cpp.llama_memory_can_shift(self._memory))

    def lay_aside(self, first: int, end: int) -> None:
        """The positions from `first` to before `end` are the sequence's no more; their cells stay
        as they are, of another one, which nothing is read in."""
        llama_cpp.llama_memory_seq_cp(self._memory, 0, _ASIDE, first, end)
        llama_cpp.llama_memory_seq_rm(self._memory, 0, first, end)

    def keep_aside(self, first: int, end: int) -> None:
        """Frees the cells of what lies aside, but for these positions."""
        llama_cpp.llama_memory_seq_rm(self._memory, _ASIDE, 0, first)
        llama_cpp.llama_memory_seq_rm(self._memory, _ASIDE, end, -1)

    def shift_aside(self, by: int) -> None:
        """What lies aside moves by so many positions; its keys are then to be turned."""
        llama_cpp.llama_memory_seq_add(self._memory, _ASIDE, -1, -1, by)

    def take_back(self) -> None:
        """What lies aside is the sequence's."""
        llama_cpp.llama_memory_seq_cp(self._memory, _ASIDE, 0, -1, -1)
        llama_cpp.llama_memory_seq_rm(self._memory, _ASIDE, -1, -1)

    def turn_keys(self) -> bool:
        """Turns the keys of what was moved, at the price of a token. Else the engine does it at the
        next decode: a state that is taken before has them as they were, a stop meanwhile leaves
        some turned and others not, and of a failure it says nothing (`memory_update`). False where
        it fails: what the cache holds is then unknown. Outside of a recording."""
        end = self.end_position
        never = llama_cpp.ggml_abort_callback(), ctypes.c_void_p()
        llama_cpp.llama_set_abort_callback(self.handle, *never)
        try:
            with self._log.recording():
                code = self.decode_one(0)
            return code == DECODE_OK and not self._log.complained("K-shift") and self.cut(end)
        finally:
            llama_cpp.llama_set_abort_callback(self.handle, *self._stopped)

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, True)

    def state_bytes(self, *, partial: bool) -> int:
        """Bytes of what the cache holds, or of what of it `cut` cannot bring back: a recurrent
        state, a sliding window's cache."""
        size: int = llama_cpp.llama_state_seq_get_size_ext(self.handle, 0, _part(partial))
        return size

    def state(self, *, partial: bool, room: Room = Block.in_ram) -> Block | None:
        """A copy of that; None where there is no room for it."""
        block = room(self.state_bytes(partial=partial))
        return block if block and self.write_state(block, partial=partial) else None

    def write_state(self, block: Block, *, partial: bool) -> bool:
        """Copies it into a block of just that size."""
        with block.array() as array:
            written = llama_cpp.llama_state_seq_get_data_ext(
                self.handle, array, block.n_bytes, 0, _part(partial)
            )
        return bool(written == block.n_bytes)

    def restore(self, state: Block, *, partial: bool) -> bool:
        """Puts it back; what came after a part of it is then to be cut. False where that fails:
        what the cache holds is then unknown."""
        with state.array() as array:
            read = llama_cpp.llama_state_seq_set_data_ext(
                self.handle, array, state.n_bytes, 0, _part(partial)
            )
        return bool(read == state.n_bytes)

    @property
    def end_position(self) -> int:
        """The position that comes next."""
        last: int = llama_cpp.llama_memory_seq_pos_max(self._memory, 0)
        return last + 1

    @property
    def first_position(self) -> int:
        """The oldest position that every part of the cache still holds; -1 when empty. Above
        0 once a sliding window has moved on."""
        position: int = llama_cpp.llama_memory_seq_pos_min(self._memory, 0)
        return position


def _part(partial: bool) -> int:
    return int(llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) if partial else 0


def init() -> None:
    """Starts the engine's backends. Once per process."""
    llama_cpp.llama_backend_init()


class _TensorOverride(ctypes.Structure):
    """struct llama_model_tensor_buft_override, which llama_cpp does not bind."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


def _experts_on_cpu(n_layers: int) -> ctypes.Array[_TensorOverride] | None:
    """Tensor overrides that keep the experts of the first `n_layers` layers in RAM, as
    llama.cpp's --n-cpu-moe does (common/common.h, LLM_FFN_EXPS_REGEX)."""
    if n_layers <= 0:
        return None
    layers = "|".join(str(layer) for layer in range(n_layers))
    pattern = rf"blk\.({layers}){EXPERT_TENSORS}"
    array = (_TensorOverride * 2)()  # the second one, all zero, ends the list
    array[0].pattern = pattern.encode()
    array[0].buft = libraries.cpu_buffer_type()
    return array
