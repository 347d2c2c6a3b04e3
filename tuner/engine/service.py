"""What the model process does with a request: load, dry run, generate, count."""

from __future__ import annotations

import time
import traceback
from dataclasses import replace

from tuner.engine import llama
from tuner.engine.abort import AbortFlag, CancelledError
from tuner.engine.llama import Context, LlamaError, LogTap, NativeModel
from tuner.engine.loaded_model import LoadedModel
from tuner.engine.log_lines import names_memory
from tuner.engine.planned_file import ChangedError, PlannedFile
from tuner.engine.prompts import Prompts
from tuner.engine.protocol import (
    AskDevices,
    Cancelled,
    CountTokens,
    DeviceMemory,
    DevicesAsked,
    DryRunDone,
    Event,
    Failed,
    Generate,
    Load,
    MeasureLosses,
    MeasureSpeed,
    Prompt,
    Request,
    Reshape,
    RestoreState,
    SaveState,
    ShowPrompt,
    TokenCount,
)
from tuner.engine.template_process import TemplateStoppedError
from tuner.engine.voice import Voice
from tuner.memory.footprint import Buffer
from tuner.settings import Settings


class Service:
    """Answers requests one by one. Engine output goes to file descriptor `log_fd`."""

    def __init__(self, abort: AbortFlag, voice: Voice, log_fd: int):
        self._abort = abort
        self._voice = voice
        self._log = LogTap(log_fd)
        self._model: LoadedModel | None = None
        self._rpc_servers: set[str] = set()
        self._untouched: dict[str, DeviceMemory] = {}
        llama.init()

    def handle(self, request: Request) -> None:
        """Does it and emits exactly one final event, whatever happens."""
        self._voice(self._final_event(request))

    def _final_event(self, request: Request) -> Event:
        try:
            match request:
                case Load(dry=True):
                    return self._dry_run(request)
                case Load():
                    return self._load(request)
                case ShowPrompt():
                    return self._show_prompt(request)
                case Generate():
                    return self._loaded_model().generate(request)
                case CountTokens():
                    return TokenCount(
                        self._loaded_model().count_tokens(request.messages, request.think)
                    )
                case AskDevices():
                    return DevicesAsked(llama.libraries.device_memory(request.names))
                case MeasureSpeed():
                    return self._loaded_model().measure_speed(request)
                case MeasureLosses():
                    return self._loaded_model().measure_losses(request)
                case SaveState():
                    return self._loaded_model().save(request)
                case RestoreState():
                    return self._loaded_model().restore(request)
                case Reshape():
                    return self._reshape(request)
                case _:
                    return Failed("refused", f"not a request: {type(request).__name__}")
        except (CancelledError, TemplateStoppedError):
            return Cancelled()
        except LlamaError as error:
            return Failed(error.kind, str(error))
        except ChangedError as error:
            return Failed("changed", str(error))
        except MemoryError:
            return Failed("out_of_memory", "this machine has not enough free memory")
        except Exception as error:  # a defect of ours: the chat must hear of it all the same
            traceback.print_exc()
            kind = "load_failed" if isinstance(request, Load) else "decode_failed"
            if names_memory(str(error)):  # a thread has no room for its stack
                kind = "out_of_memory"
            return Failed(kind, f"the engine failed: {type(error).__name__}: {error}")

    def _load(self, request: Load) -> Event:
        if self._model is not None:
            self._model.close()
            self._model = None
        file = PlannedFile(request.path, request.fingerprint)
        self._register(request)
        if self._abort:
            raise CancelledError
        content = file.content()
        model = LoadedModel(request, self._log, self._abort, self._voice, content)
        try:
            file.require_unchanged()
        except ChangedError:
            model.close()
            raise
        self._model = model
        untouched = (self._untouched.get(name) for name in request.looks_at)
        return replace(model.loaded, untouched=tuple(filter(None, untouched)))

    def _reshape(self, request: Reshape) -> Event:
        model = self._loaded_model()
        try:
            return model.reshape(request)
        except Exception as error:
            if model.usable:
                raise
            # Neither the new context could be had, nor the old one again.
            model.close()
            self._model = None
            return Failed("not_loaded", str(error) or type(error).__name__)

    def _dry_run(self, request: Load) -> DryRunDone:
        started = time.monotonic()
        PlannedFile(request.path, request.fingerprint)
        self._register(request)
        self._voice.doing("load")
        with self._log.recording():
            model = NativeModel(
                request.path,
                request.settings,
                self._log,
                dry=True,
                progress=lambda _: not self._abort,
                left_out=request.left_out,
            )
            try:
                context = Context(model, request.settings, request.n_threads, self._log)
                try:
                    buffers = _exact(context.breakdown(), self._log.buffers)
                finally:
                    context.close()
            finally:
                model.close()
        if self._abort:
            raise CancelledError
        return DryRunDone(buffers, time.monotonic() - started)

    def _show_prompt(self, request: ShowPrompt) -> Prompt:
        PlannedFile(request.path, "")
        self._voice.doing("load")
        with self._log.recording():
            model = NativeModel(request.path, Settings(n_ctx=1), self._log, vocab_only=True)
        try:
            if not model.has_tokens:
                raise LlamaError("refused", "this model cannot chat: it has no vocabulary")
            self._voice.doing("template")
            prompts = Prompts(model, request.chat_template, lambda: self._abort)
            try:
                return prompts.shown(request.messages, request.think)
            finally:
                prompts.close()
        finally:
            model.close()

    def _register(self, request: Load) -> None:
        """The servers' devices, and a look at what is free while nothing is opened."""
        for server in request.rpc_servers:
            if server in self._rpc_servers:
                continue
            self._voice.doing("connect")
            try:
                llama.libraries.register_rpc(server)
            except OSError as error:
                raise LlamaError("load_failed", str(error)) from error
            self._rpc_servers.add(server)
        new = [name for name in request.looks_at if name not in self._untouched]
        if new and self._model is None:
            memory = llama.libraries.device_memory(new)
            self._untouched |= {device.name: device for device in memory}

    def _loaded_model(self) -> LoadedModel:
        if self._model is None:
            raise LlamaError("not_loaded", "no model is loaded")
        return self._model


def _exact(breakdown: tuple[Buffer, ...] | None, logged: tuple[Buffer, ...]) -> tuple[Buffer, ...]:
    """The breakdown where there is one (under no_alloc the log's weights and cache lines read
    0), its cache parted into cache and recurrent state by the log, plus the output buffer that
    it leaves out. Else the log's lines."""
    if breakdown is None:
        return logged
    states = {b.device: b.size for b in logged if b.kind == "recurrent_state"}
    exact: list[Buffer] = []
    for buffer in breakdown:
        state = min(buffer.size, states.get(buffer.device, 0)) if buffer.kind == "kv_cache" else 0
        if buffer.size > state:
            exact.append(Buffer(buffer.device, buffer.kind, buffer.size - state))
        if state:
            exact.append(Buffer(buffer.device, "recurrent_state", state))
    return (*exact, *(b for b in logged if b.kind == "output"))
