"""The answer that is being written, as the conversation has it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from tui.answering.conversation import Chat, measured
from tui.answering.generation import Generation
from tui.ports import RunningModel
from tui.storage import Recorder, StoredMessage
from tuner.engine.protocol import PromptProgress, Sampling, WasThought
from tuner.safe_text import utf8

SAVE_SECONDS = 1.0  # the most that is lost if the process is killed


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of an answer since it was last looked at. `anew`: what was answered before was a
    thought, and `text` begins the answer."""

    text: str = ""
    anew: bool = False
    news: bool = False  # the answer or its thought has grown, or is at its end
    finished: bool = False
    progress: PromptProgress | None = None


class Growing:
    """Takes in what a generation says, and has it saved. Lives where its `Chat` does."""

    def __init__(
        self, chat: Chat, generation: Generation, recorder: Recorder | None, answer: StoredMessage
    ):
        """`recorder`: None where the answer is not to be saved."""
        self.generation = generation
        self.answer = answer
        self.n_tokens = answer.n_tokens or 0
        self.thinks = False  # at the moment
        self._chat = chat
        self._recorder = recorder
        self._before = answer  # what was there of it, where it goes on
        self._thinking_since = 0.0
        self._saved_at = time.monotonic()
        self._unsaved = self._settled = False

    @classmethod
    def begin(
        cls,
        chat: Chat,
        running: RunningModel,
        recorder: Recorder | None,
        sampling: Sampling,
        think: str = "",
    ) -> Growing:
        """An empty answer to the conversation as it stands; `think`: the level of thinking. Its
        `generation.run` belongs in a thread."""
        if sampling.seed is not None:  # another answer wants another seed
            sampling = replace(sampling, seed=sampling.seed + chat.tree.n_following)
        prompt = chat.prompt()
        answer = chat.begin_answer(running, sampling)
        generation = Generation(
            running, prompt, sampling, think=think, may_move=bool(chat.view.gone)
        )
        return cls(chat, generation, recorder, answer)

    @classmethod
    def go_on(
        cls,
        chat: Chat,
        running: RunningModel,
        recorder: Recorder | None,
        sampling: Sampling,
        think: str = "",
    ) -> Growing:
        """The same for more of the last answer, which was stopped or cut short."""
        generation = Generation(
            running,
            chat.prompt(),
            sampling,
            continue_last=True,
            think=think,
            may_move=bool(chat.view.gone),
        )
        return cls(chat, generation, recorder, chat.reopen_answer())

    def take(self) -> Taken:
        """What came since the last call; `answer` has it then, with what the engine counted where
        that was the last."""
        finished = self.generation.finished  # before the text is taken, so that none is missed
        said, progress = self.generation.take()
        if not said and (not finished or self._settled):
            return Taken(finished=finished, progress=progress)
        thoughts, answers, text = [self.answer.reasoning], [self.answer.content], ""
        anew = False
        for event in said:
            if isinstance(event, WasThought):
                thoughts, answers, text, anew = [*thoughts, *answers], [], "", True
                continue
            self.n_tokens += event.n_tokens
            self._turn_to(event.thought)
            if event.thought:
                thoughts.append(utf8(event.text))
            else:
                answers.append(utf8(event.text))
                text += answers[-1]
        self.answer = replace(
            self.answer,
            content="".join(answers),
            reasoning="".join(thoughts),
            n_tokens=self.n_tokens,
            first_seconds=self._first_seconds,
        )
        if finished:
            done, error = self.generation.done, self.generation.error
            if done is not None:
                self.answer = measured(self.answer, done, self._before)
            else:  # without an error the engine was not even asked
                state = "stopped" if error is None else "error"
                full = error is not None and error.kind == "context_full"
                self.answer = replace(self.answer, state="context_full" if full else state)
            self._settled = True
        self._chat.change(self.answer)
        self._unsaved = True
        return Taken(text, anew, True, finished, progress)

    @property
    def n_new(self) -> int:
        """Tokens that came by now, without those of an answer that is gone on with."""
        return self.n_tokens - (self._before.n_tokens or 0)

    @property
    def _first_seconds(self) -> float | None:
        """Until the first word, also of an answer that is gone on with."""
        goes_on = bool(self._before.content or self._before.reasoning)
        return self._before.first_seconds if goes_on else self.generation.first_seconds

    def keep(self) -> None:
        """To be called often: asks again for a stop that was asked for, since the first may have
        come before the engine began, and saves what there is from time to time."""
        if self.generation.stopped:
            self.generation.stop()
        now = time.monotonic()
        if self._recorder and self._unsaved and now - self._saved_at >= SAVE_SECONDS:
            self._recorder.save(self._chat.record(), self.answer)
            self._saved_at, self._unsaved = now, False

    def end(self) -> bool:
        """Saves the finished answer. False: nothing came, so that it is no part of the conversation
        and its question waits for another try."""
        answer, generation = self.answer, self.generation
        stopped = generation.error is None and generation.stopped
        if answer.content.strip() or answer.reasoning or stopped:
            if self._recorder:
                self._recorder.save(self._chat.record(), answer)
            return True
        self._chat.tree.discard(answer)
        return False

    def _turn_to(self, thought: bool) -> None:
        """The model begins to think, or ends it: for how long, until the engine says so exactly."""
        now = time.monotonic()
        if thought and not self.thinks:
            self._thinking_since = now
        if self.thinks and not thought:
            seconds = (self.answer.thought_seconds or 0.0) + now - self._thinking_since
            self.answer = replace(self.answer, thought_seconds=seconds)
        self.thinks = thought
