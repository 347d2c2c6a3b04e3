"""Conversations that come back warm: what the model had read of one is saved when it is left, and
given back to the model when it is opened."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from tui.answering.generation import Generation
from tui.ports import RunningModel
from tui.storage import Conversations
from tuner.engine.log import note
from tuner.engine.protocol import Done
from tuner.errors import KvchatError
from tuner.units import count_text, size_text

LEAST_TOKENS = 256  # in the cache: fewer are read as fast as they are found on the disk
TELLING_TOKENS = 32  # read at once: fewer say nothing of the speed
LONG_SECONDS = 10.0  # of reading, which a death shall not cost again,
LEAST_SHARE = 0.25  # nor writing: of the cache that is new since it was saved last
SAVE_SECONDS = 1.0  # in which a conversation has come into the store,
LOOK_SECONDS = 0.02  # looked for so often
SWEEP_SECONDS = 5.0  # from the start, in which there is enough to do
TURN = 2  # messages, all of which are new
WAIT_SECONDS = 60.0  # that an answer waits for what is under way; the engine's own patience is less


@dataclass(frozen=True, slots=True)
class _Held:
    """What the model's cache holds, as far as is known here."""

    conversation_id: str = ""  # "": of none that is known
    n_tokens: int = 0
    n_saved: int = 0  # of these, on the disk


def _nobody(_: str) -> None:
    pass


class Warm:
    """Saves and restores one after the other, in a thread of its own, so that nothing waits for it
    but an answer. What fails is in the engine's log: without a state, the model reads again."""

    def __init__(self, store: Conversations, tell: Callable[[str], object] = _nobody):
        """`tell`: is told, in that thread, what is going on; "" when that is over."""
        self._store = store
        self._tell = tell
        self._held = _Held()
        self._cold = ""
        self._seconds = 0.0  # that a token took to be read
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of what is counted
        self._n_waiting = self._n_saves = 0
        self._swept = False
        self._idle = threading.Event()
        self._idle.set()
        threading.Thread(target=self._run, name="states", daemon=True).start()

    # ------------------------------------------------------------ what has happened

    def cold(self, done: Done, n_messages: int) -> Done:
        """The same with the reason why a conversation of so many messages was read from its start,
        where it is known here and not to the engine."""
        if done.read_again or done.n_reused >= LEAST_TOKENS or n_messages <= TURN:
            return done
        return replace(done, read_again=self._cold)

    def asked(self, conversation_id: str) -> None:
        """The model is asked something in a conversation: its cache is no other's from now on."""
        if self._held.conversation_id != conversation_id:
            self._held = _Held(conversation_id)

    def answered(self, running: RunningModel, conversation_id: str, done: Done) -> None:
        """It has answered. Saves what was read where that would take long once more, in steps that
        together write no more than four times what there is at the end. Returns at once."""
        held, n_tokens = self._held, done.n_ctx_used
        n_saved = held.n_saved if held.conversation_id == conversation_id else 0
        self._held, self._cold = _Held(conversation_id, n_tokens, min(n_saved, n_tokens - 1)), ""
        if (fresh := done.n_read) >= TELLING_TOKENS:
            self._seconds = done.prompt_seconds / fresh
        unsaved = n_tokens - n_saved
        if unsaved * self._seconds >= LONG_SECONDS and unsaved >= LEAST_SHARE * n_tokens:
            self.left(running)

    def forget(self, conversation_id: str) -> None:
        """What was said in it is not to be kept: it was deleted, or some of it."""
        if self._held.conversation_id == conversation_id:
            self._held = _Held()

    def lost(self) -> None:
        """The model's process is another one, or has ended."""
        self._held = _Held()
        self._cold = "the model was loaded again"

    # ------------------------------------------------------------ what is to be done

    def worth_saving(self, running: RunningModel) -> bool:
        """The cache holds what would take long to read again, and is not on the disk as it is."""
        held, states = self._held, self._store.states
        return (
            bool(held.conversation_id)
            and states.kept
            and self._store.saved  # what is in memory alone leaves nothing behind
            and held.n_tokens >= LEAST_TOKENS
            and not (held.n_saved == held.n_tokens and states.has(held.conversation_id))
            and running.alive
        )

    def left(self, running: RunningModel) -> None:
        """Another conversation comes, or none: saves what was read of this one, if it is worth
        it. Returns at once."""
        if self.worth_saving(running):
            with self._lock:
                self._n_saves += 1
            self._add(partial(self._save, running))

    def opened(self, running: RunningModel, conversation_id: str) -> None:
        """This conversation goes on: gives the model back what it had read of it. Returns at
        once."""
        self._add(partial(self._restore, running, conversation_id))

    def let_go(self, running: RunningModel) -> None:
        """Saves, then ends the model's process. Returns at once."""
        self.left(running)
        self._add(partial(self._end, running))

    def wait(self, seconds: float = WAIT_SECONDS) -> bool:
        """Until nothing is under way; False: it takes longer. Blocks."""
        return self._idle.wait(seconds)

    def before(self, generation: Generation, *, aside: bool = False) -> None:
        """Runs it once nothing is under way, or it was stopped. Blocks. `aside`: it is no turn of
        the conversation, so that what the cache holds then is not what is to be kept of that."""
        until = time.monotonic() + WAIT_SECONDS
        while not self._idle.wait(LOOK_SECONDS):
            if generation.stopped or time.monotonic() > until:
                break
        if aside and not generation.stopped:
            self._held = _Held()
        generation.run()

    @property
    def saving(self) -> bool:
        """Something is being saved, or is to be."""
        return self._n_saves > 0

    def close(self) -> None:
        """Nothing more is to be done; what is half saved is given up."""
        self._jobs.put(None)
        if self.saving:
            self._store.states.drop_unfinished(self._held.conversation_id)

    # ------------------------------------------------------------ the thread

    def _add(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._n_waiting += 1
            self._idle.clear()
        self._jobs.put(job)

    def _next(self) -> Callable[[], None] | None:
        """The next job; what is left of conversations that are gone is swept before, once there
        is time for it."""
        if not self._swept:
            try:
                return self._jobs.get(timeout=SWEEP_SECONDS)
            except queue.Empty:
                self._swept = True
                with suppress(KvchatError):
                    self._store.sweep_states()
        return self._jobs.get()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            with suppress(Exception):  # the chat goes on without
                job()
            with self._lock:
                self._n_waiting -= 1
                if not self._n_waiting:
                    self._idle.set()

    def _save(self, running: RunningModel) -> None:
        try:
            self._save_if_worth_it(running)
        finally:
            with self._lock:
                self._n_saves -= 1

    def _save_if_worth_it(self, running: RunningModel) -> None:
        held, states = self._held, self._store.states
        if not self.worth_saving(running):  # it was, before what was done since then
            return
        if not self._is_kept(held.conversation_id):  # another kvchat has deleted it
            return
        n_bytes, _ = running.cache_bytes(held.n_tokens)
        self._tell(f"keeping what was read, {size_text(n_bytes)}")
        try:
            most = states.make_room(held.conversation_id, n_bytes)
            saved = running.save_state(states.path(held.conversation_id), most)
            n_tokens, why = saved.n_tokens, saved.why
        except (KvchatError, OSError) as error:
            n_tokens, why = 0, str(error)
        finally:
            self._tell("")
        if not n_tokens:
            _note(running, f"the state of {held.conversation_id} was not saved: {why}")
            return
        if self._held is held:
            self._held = replace(held, n_saved=held.n_tokens)
        tokens = count_text(n_tokens, "token")
        size, seconds = size_text(saved.n_bytes), saved.seconds
        told = f"{tokens}, {size}, {seconds:.1f} s"
        _note(running, f"the state of {held.conversation_id} is saved: {told}")
        if self._store.get(held.conversation_id) is None:  # deleted meanwhile
            states.delete(held.conversation_id)
        states.keep_to_bound()

    def _is_kept(self, conversation_id: str) -> bool:
        """Whether a conversation is in the store, which may still be about to save it."""
        until = time.monotonic() + SAVE_SECONDS
        while self._store.get(conversation_id) is None:
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def _restore(self, running: RunningModel, conversation_id: str) -> None:
        held, states = self._held, self._store.states
        there = held.conversation_id == conversation_id and held.n_tokens
        if there:
            return
        if not states.has(conversation_id):
            self._cold = self._cold or "nothing was kept of it"
            return
        self._tell("bringing back what was read")
        try:
            restored = running.restore_state(states.path(conversation_id))
            n_tokens, why = restored.n_tokens, restored.why
        except (KvchatError, OSError) as error:
            n_tokens, why = 0, str(error)
        finally:
            self._tell("")
        if not n_tokens:  # the cache is as it was
            self._cold = f"what was kept of it is of no use, {why}"
            _note(running, f"the state of {conversation_id} was not restored: {why}")
            return
        self._held, self._cold = _Held(conversation_id, n_tokens, n_tokens), ""
        states.used(conversation_id)
        tokens, seconds = count_text(n_tokens, "token"), restored.seconds
        _note(running, f"the state of {conversation_id} is back: {tokens}, {seconds:.1f} s")

    def _end(self, running: RunningModel) -> None:
        self.lost()
        running.kill()


def _note(running: RunningModel, text: str) -> None:
    if running.log_path is not None:
        note(running.log_path, text)
