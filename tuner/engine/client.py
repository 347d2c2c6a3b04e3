"""The parent's end of the model process: load, generate, stop, and survive its death."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tuner.child_environment import child_environment
from tuner.engine.log import default_log_path, discard, note
from tuner.engine.patience import WAIT_SECONDS, Patience, Watch
from tuner.engine.protocol import (
    Alive,
    AnswerEvent,
    AskDevices,
    Cancelled,
    CountTokens,
    DeviceMemory,
    DevicesAsked,
    Done,
    DryRunDone,
    Event,
    Failed,
    Final,
    Generate,
    Load,
    Loaded,
    LossesMeasured,
    MeasureLosses,
    MeasureSpeed,
    Message,
    Progress,
    Prompt,
    Request,
    Reshape,
    RestoreState,
    SaveState,
    ShowPrompt,
    SpeedMeasured,
    StateRestored,
    StateSaved,
    Stop,
    TokenCount,
)
from tuner.engine.worker_process import THREADS, WORKER_COMMAND, WorkerDiedError, WorkerProcess
from tuner.errors import EngineCancelled, EngineError, KvchatError, UsageError
from tuner.machine.rpc import gone, lost_text, names_server

EXTRA_BUFTS_WARNING = (
    "this CPU announces instructions that it cannot run, so the model was loaded again "
    "without repacked weights; kvchat --forget-machine lets them be tried again"
)

BROKEN_OFF_WARNING = (
    "the connection to an RPC server broke during the load, and the model was loaded again"
)
# Of a load: as near as two ends are that come of the same tensor. What is on its way when a server
# breaks off is a few MiB.
_SAME_PLACE = 0.05

_ENDS = {
    Load: Loaded | DryRunDone,
    ShowPrompt: Prompt,
    Generate: Done,
    CountTokens: TokenCount,
    AskDevices: DevicesAsked,
    MeasureSpeed: SpeedMeasured,
    MeasureLosses: LossesMeasured,
    Reshape: Loaded,
    SaveState: StateSaved,
    RestoreState: StateRestored,
}
_Ended = TypeVar("_Ended")
_NOTED = 20  # answers to nothing that are worth a line in the log


class EngineClient:
    """One model process at a time, started when first needed and again after it died.

    The iterators block: run them in a thread that is not the screen's. One request runs at a
    time, another waits for it, so exhaust or close an iterator before the next call from the
    same thread. `stop` and `close` may be called from any thread at any time. No call waits for
    ever: a process that does not get on in the time that `patience` gives it is killed.
    """

    def __init__(
        self,
        log_path: Path | None = None,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        patience: Patience | None = None,
    ):
        """`env` is added to what the process inherits; `command` replaces the worker."""
        inherited = child_environment()
        self._env = {**THREADS, **inherited, **(env or {}), "GGML_NO_BACKTRACE": "1"}
        self._log_path = log_path or default_log_path({**os.environ, **self._env})
        self._log_problem = ""
        self._log_named = False  # in an error: whoever reads that may look into it
        self._command = tuple(command or WORKER_COMMAND)
        self._patience = patience or Patience()
        self._watch: Watch | None = None  # of the request that runs
        self._number = 0  # of the last request
        self._unasked = 0  # answers to nothing
        self._turn = threading.Lock()  # held by the request that runs
        self._state = threading.Lock()  # guards the fields below
        self._worker: WorkerProcess | None = None
        self._rpc_servers: tuple[str, ...] = ()
        self._busy = False
        self._sent = False
        self._stop_wanted = False
        self._closed = False
        self._doing = ""  # of a process that has said nothing yet
        self._extra_bufts = True  # what the loaded model was asked to use
        self._died: str | None = None
        self._blamed = ""  # the signal that repacked weights are to blame for

    @property
    def log_path(self) -> Path:
        """The file that the engine's own messages go to."""
        return self._log_path

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should hear of the log."""
        return (self._log_problem,) if self._log_problem else ()

    @property
    def alive(self) -> bool:
        """Whether the model process runs now."""
        worker = self._worker
        return worker is not None and worker.alive

    @property
    def still(self) -> float:
        """Seconds for which the request that runs has not got on; 0 where none runs."""
        watch = self._watch
        return watch.still if watch is not None else 0.0

    @property
    def pid(self) -> int | None:
        """The process that holds the model, to tell its GPU memory from that of others."""
        worker = self._worker
        return worker.pid if worker is not None and worker.alive else None

    def load(self, request: Load) -> Generator[Progress | Loaded, None, None]:
        """Loads a model, replacing the one before. The last item is `Loaded`.

        Raises EngineError (`out_of_memory` where smaller settings may do) or, after `stop`,
        EngineCancelled. A death on an instruction that the CPU lacks is answered by another start
        without repacked weights, told in `Loaded.use_extra_bufts` and its warnings.
        """
        for event in self._load(request):
            match event:
                case Progress():
                    yield event
                case Loaded() if request != self._as_possible(request):
                    warnings = (*event.warnings, EXTRA_BUFTS_WARNING)
                    yield replace(
                        event,
                        use_extra_bufts=False,
                        extra_bufts_died_by=self._blamed,
                        warnings=warnings,
                    )
                case Loaded():
                    yield replace(event, use_extra_bufts=request.settings.use_extra_bufts)

    def dry_run(self, request: Load) -> DryRunDone:
        """What a load would allocate, asked of the engine itself. Needs no memory to speak of;
        a model that is loaded already stays loaded. Raises as `load` does."""
        for event in self._load(replace(request, dry=True)):
            if isinstance(event, DryRunDone):
                return event
        raise EngineError("decode_failed", "the engine gave no answer to a dry run")

    def generate(self, request: Generate) -> Generator[AnswerEvent, None, None]:
        """Answers a conversation. The last item is `Done`, after `stop` too. Closing the
        iterator early stops the generation. Raises EngineError."""
        for event in self._run(request):
            if isinstance(event, AnswerEvent):
                yield event

    def show_prompt(self, request: ShowPrompt) -> Prompt:
        """What a model would be sent, told by the header alone. Raises EngineError."""
        return self._ended(request, Prompt)

    def count_tokens(self, messages: Sequence[Message], think: str = "") -> int:
        """Tokens of a conversation as the model would be given it. Waits for a generation
        that runs. Raises EngineError."""
        return self._ended(CountTokens(tuple(messages), think), TokenCount).n_tokens

    def device_memory(
        self, names: Sequence[str], *, waits: bool = True
    ) -> tuple[DeviceMemory, ...] | None:
        """What is free on these devices, asked of the process that has them open; a model need not
        be loaded. Milliseconds, after what runs; None where there is no process to ask, or without
        `waits` something runs. Raises EngineError.

        To be asked time after time of this machine's own devices alone: a server on another that
        does not answer ends the process."""
        if not self.alive or not self._turn.acquire(blocking=waits):
            return None
        try:
            (*_, last) = self._in_turn(AskDevices(tuple(names)))
        finally:
            self._turn.release()
        assert isinstance(last, DevicesAsked)
        return last.memory

    def measure_speed(
        self, request: MeasureSpeed
    ) -> Generator[Progress | SpeedMeasured, None, None]:
        """Times the loaded model. The last item is `SpeedMeasured`. Raises EngineError or, after
        `stop`, EngineCancelled."""
        for event in self._run(request):
            if isinstance(event, Progress | SpeedMeasured):
                yield event

    def measure_losses(
        self, request: MeasureLosses
    ) -> Generator[Progress | LossesMeasured, None, None]:
        """Compares caches of the loaded model. The last item is `LossesMeasured`. Raises
        UsageError where the text is too short, and as `measure_speed` does."""
        for event in self._run(request):
            if isinstance(event, Progress | LossesMeasured):
                yield event

    def reshape(self, request: Reshape) -> Generator[Progress | Loaded, None, None]:
        """Another context on the weights that are loaded. The last item is `Loaded`. Raises
        EngineError: what was loaded is then as it was, or nothing is; after `stop`,
        EngineCancelled, and it is as it was."""
        for event in self._run(request):
            if isinstance(event, Progress | Loaded):
                yield event

    def save_state(self, path: Path, most_bytes: int, *, is_memory: bool = False) -> StateSaved:
        """Writes what the cache holds to a file. `is_memory`: as in `SaveState`. Raises
        EngineError."""
        return self._ended(SaveState(str(path), most_bytes, is_memory), StateSaved)

    def restore_state(self, path: Path) -> StateRestored:
        """Fills the cache with what a file holds, where that fits. Raises EngineError."""
        return self._ended(RestoreState(str(path)), StateRestored)

    def stop(self) -> None:
        """Cancels whatever runs, if anything does. Returns at once."""
        with self._state:
            if self._busy and not self._stop_wanted:
                self._stop_wanted = True
                if self._sent and self._worker is not None:
                    self._worker.send(Stop(), self._number)

    def close(self) -> None:
        """Ends the process, killing it when it does not leave within a second. A request that
        runs elsewhere raises EngineCancelled there. A later `load` starts anew."""
        with self._state:
            worker, self._worker = self._worker, None
            self._closed = True
            self._rpc_servers = ()
        if worker is not None:
            worker.quit()
        if not self._log_named:
            discard(self._log_path)

    def kill(self) -> None:
        """`close` without a second for the process, and without a lock: a signal handler may call
        it, whatever it has interrupted."""
        self._closed = True
        worker = self._worker
        if worker is not None:
            worker.kill()

    def __enter__(self) -> EngineClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ inside

    def _ended(self, request: Request, kind: type[_Ended]) -> _Ended:
        """A request of which only the end is of interest."""
        for event in self._run(request):
            if isinstance(event, kind):
                return event
        raise EngineError("decode_failed", "the engine gave no answer")

    def _load(self, request: Load) -> Generator[Event, None, None]:
        """One load or dry run. Where it dies as repacked weights make it die, once more without
        them: at once after an illegal instruction, else only after the same death twice. Where an
        RPC server broke off that is there, once more too: a network fails anywhere, a server that
        has no memory for a tensor at that tensor."""
        before: WorkerDiedError | None = None
        at, broken_off_at = 0.0, -1.0  # of the load
        while True:
            attempt = self._as_possible(request)
            try:
                for event in self._run(attempt):
                    if isinstance(event, Progress):
                        at = event.fraction
                    if isinstance(event, Loaded) and broken_off_at >= 0:
                        yield replace(event, warnings=(*event.warnings, BROKEN_OFF_WARNING))
                    else:
                        yield event
                return
            except EngineError as error:
                death = error.__cause__
                if not isinstance(death, WorkerDiedError):
                    raise
                if death.broken_off:
                    if broken_off_at < 0:
                        broken_off_at, at = at, 0.0
                        continue
                    if abs(at - broken_off_at) <= _SAME_PLACE:
                        raise EngineError("out_of_memory", str(error)) from death
                if not death.maybe_by_instruction:
                    raise
                if not attempt.settings.use_extra_bufts:  # then they were not to blame
                    self._blamed = ""
                    raise
                if death.by_instruction or (before and death.like(before)):
                    self._blamed = death.signal_name
                elif before is None:
                    before = death
                else:
                    raise

    def _as_possible(self, request: Load) -> Load:
        if not self._blamed:
            return request
        return replace(request, settings=replace(request.settings, use_extra_bufts=False))

    def _run(self, request: Request) -> Generator[Event, None, None]:
        """Sends one request and yields its events up to the final one."""
        with self._turn:
            yield from self._in_turn(request)

    def _in_turn(self, request: Request) -> Generator[Event, None, None]:
        """The same, where it is this request's turn."""
        worker = self._begin(request)
        at_file = isinstance(request, SaveState | RestoreState)
        self._watch = watch = Watch(self._patience, self._doing, at_file=at_file)
        try:
            while True:
                event = self._next(worker, watch)
                if isinstance(event, Failed):
                    if event.kind == "usage":
                        raise UsageError(f"{event.message}.")
                    raise EngineError(event.kind, self._with_log(event))
                if isinstance(event, Cancelled):
                    raise EngineCancelled("it was cancelled")
                if isinstance(event, Final) and not isinstance(event, _ENDS[type(request)]):
                    raise worker.give_up(f"answered with {type(event).__name__}")
                yield event
                if isinstance(event, Final):
                    return
        except GeneratorExit:  # the caller lost interest
            if not isinstance(event, Final):
                self._drain(worker, watch)
            raise
        except WorkerDiedError as death:
            raise self._death_error(worker, death, request) from death
        except KvchatError:
            raise
        except BaseException:  # an interrupt: there is no time to ask
            worker.kill()
            raise
        finally:
            self._watch = None
            with self._state:
                self._busy = False

    def _next(self, worker: WorkerProcess, watch: Watch) -> Event:
        """The next event of the request that runs. Raises WorkerDiedError, also where it had to
        be ended, and EngineCancelled."""
        while True:
            began = time.monotonic()
            answer = worker.read(WAIT_SECONDS)
            if self._closed:
                raise EngineCancelled("the engine was closed")
            waited = min(time.monotonic() - began, WAIT_SECONDS)
            if answer is not None:
                number, event = answer
                if number == self._number or isinstance(event, Alive):
                    watch.heard(event)
            if too_long := watch.waited(waited, self._stop_wanted):
                servers = ", ".join(self._rpc_servers)
                remote = f" (its RPC servers: {servers})" if servers else ""
                raise worker.give_up(too_long + remote)
            if answer is None or isinstance(event, Alive):
                continue
            if number == self._number:
                return event
            self._unasked += 1
            if self._unasked <= _NOTED:
                note(self._log_path, f"an answer to nothing: {number} {event!r:.200}")

    def _begin(self, request: Request) -> WorkerProcess:
        with self._state:
            self._busy = True
            self._sent = False
            self._stop_wanted = False
        try:
            worker = self._ready_worker(request)
            with self._state:
                self._number += 1
                worker.begin(request, self._number)
                self._sent = True
                if self._stop_wanted:  # asked for while the process was being started
                    worker.send(Stop(), self._number)
        except BaseException:
            with self._state:
                self._busy = False
            raise
        return worker

    def _ready_worker(self, request: Request) -> WorkerProcess:
        """The running process, or for a load a new one where that is needed."""
        loading = isinstance(request, Load | ShowPrompt)
        self._doing = ""
        with self._state:
            worker = self._worker if self.alive else None
            if loading:
                self._closed = False
        if not loading:
            if worker is None and self._worker is not None:
                return self._worker  # it died while idle: the next read says how
            if worker is None:
                raise EngineError("not_loaded", self._died or "no model is loaded")
            return worker
        # RPC devices stay registered for the life of a process.
        servers = request.rpc_servers if isinstance(request, Load) else self._rpc_servers
        if worker is not None and servers != self._rpc_servers:
            worker.quit()
            worker = None
        if worker is None:
            self._doing = "start"
            worker = WorkerProcess(self._command, self._env, self._log_path)
            self._log_path = worker.log_path
            self._log_problem = worker.log_problem or self._log_problem
        with self._state:
            if self._closed:  # while it was being started
                worker.kill()
                raise EngineCancelled("the engine was closed")
            self._worker = worker
            self._died = None
            self._rpc_servers = servers
            if isinstance(request, Load) and not request.dry:
                self._extra_bufts = request.settings.use_extra_bufts
        return worker

    def _drain(self, worker: WorkerProcess, watch: Watch) -> None:
        """Stops a request whose iterator was closed, so that the next one starts clean."""
        self.stop()
        try:
            while not isinstance(self._next(worker, watch), Final):
                pass
        except EngineCancelled:
            pass
        except WorkerDiedError as death:
            with self._state:
                self._died = None if self._closed else self._obituary(death, self._lost(death))

    def _death_error(
        self, worker: WorkerProcess, death: WorkerDiedError, request: Request
    ) -> EngineError | EngineCancelled:
        with self._state:
            if self._closed:
                return EngineCancelled("the engine was closed")
            self._worker = None
        worker.kill()  # reaps it
        away = self._lost(death)
        self._died = message = self._obituary(death, away)
        if isinstance(request, Load) and self._stop_wanted:
            return EngineCancelled("the load was cancelled")
        death.broken_off = away == []
        if death.surely_by_memory or (isinstance(request, Load) and death.by_memory):
            return EngineError("out_of_memory", message)
        if not isinstance(request, Load) and self._extra_bufts and death.by_instruction:
            self._blamed = death.signal_name  # the next load shall do without
        return EngineError("crashed", message)

    def _lost(self, death: WorkerDiedError) -> list[str] | None:
        """Which RPC servers are gone, if it died of losing one; else None."""
        if self._rpc_servers and names_server(death.fatal_line):
            return gone(self._rpc_servers)
        return None

    def _obituary(self, death: WorkerDiedError, away: list[str] | None) -> str:
        self._log_named = True
        if away is not None:
            lost = lost_text(self._rpc_servers, away)
            return f"{lost}, and the engine's process ended with it; its log is {self._log_path}"
        why = f" ({death.fatal_line})" if death.fatal_line else ""
        return f"the engine's process {death}{why}; its log is {self._log_path}"

    def _with_log(self, failed: Failed) -> str:
        if failed.kind in {"context_full", "not_loaded", "changed"}:
            return failed.message
        self._log_named = True
        return f"{failed.message}; the engine's log is {self._log_path}"
