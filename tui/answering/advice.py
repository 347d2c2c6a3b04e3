"""What the chat says when an answer failed, and what can be done then."""

from __future__ import annotations

from typing import Protocol

from tui.ports import RunningModel
from tuner.errors import EngineCancelled, EngineError, KvchatError
from tuner.units import count_text

_WAYS = (
    ("model.reload", "tries again"),
    ("model.explore", "chooses other settings"),
    ("app.quit", "quits"),
)
_DEATHS = ("crashed", "not_loaded")  # kinds of EngineError after which there is no model


class Called(Protocol):
    """How the user asks for an action of the keymap: by a key (`Keymap`), or by a command."""

    def label(self, action_id: str) -> str:
        """Empty where that is not possible."""
        ...


def is_death(error: KvchatError) -> bool:
    """Whether there is no model any more: it must be loaded again."""
    ended = isinstance(error, EngineCancelled)  # killed, since it did not stop
    return ended or (isinstance(error, EngineError) and error.kind in _DEATHS)


def ran_out(error: KvchatError) -> bool:
    """Whether there was not enough memory."""
    return isinstance(error, EngineError) and error.kind == "out_of_memory"


def in_words(error: Exception, failed: str) -> KvchatError:
    """Whatever it was as an error that can be told: the chat must outlive a defect of ours.
    `failed`: what did, as a sentence begins."""
    if isinstance(error, KvchatError):
        return error
    return EngineError("load_failed", f"{failed}: {error!r}.")


def what_failed(error: KvchatError, running: RunningModel) -> str:
    """What went wrong, and where its log is."""
    text, log = str(error), running.log_path
    return text if log is None or str(log) in text else f"{text} Its log: {log}"


def failure(
    error: KvchatError, running: RunningModel, called: Called, *, comes_back: bool = False
) -> str:
    """What went wrong, where its log is, and what goes on from there. `comes_back`: the model is
    loaded again without being asked for."""
    text = what_failed(error, running)
    if comes_back and ran_out(error):
        way_on = "A smaller plan is loaded, and goes on with the answer."
    elif comes_back:
        way_on = "The model comes back by itself."
    elif is_death(error):
        way_on = f"{called.label('model.reload')} loads the model again."
    else:
        way_on = f"{called.label('answer.regenerate')} tries again."
    return f"{text}\nThe conversation is whole. {way_on}"


def found_dead(running: RunningModel, called: Called) -> str:
    """Of a model process that ended while nothing was asked of it."""
    log = f" Its log: {running.log_path}" if running.log_path is not None else ""
    key = called.label("model.reload")
    return (
        f"The model's process has ended.{log}\nThe conversation is whole. The next message loads "
        f"the model again, and so does {key}."
    )


def is_back(
    running: RunningModel, called: Called, why: str, *, cut: bool, waits: bool = False
) -> str:
    """Of a model that was loaded again while the chat was open. `why`: it had to be; "" where the
    user asked for it. `cut`: the last answer can be gone on with. `waits`: a question is answered
    now."""
    n_ctx = running.settings.n_ctx
    done = "The cache is another now" if running.in_place else "The model is loaded again"
    what = f"{done}: {n_ctx:,} tokens of context, {running.status()}."
    if running.n_moved:
        what += f" {count_text(running.n_moved, 'token')} need not be read again."
    again = f"{called.label('answer.regenerate')} for another answer"
    goes_on = f"{called.label('answer.continue')} goes on with the answer that was cut."
    ways = "" if waits else goes_on if cut else f"Go on, or {again}."
    return "\n".join(filter(None, (why, what, ways)))


def not_loaded(error: KvchatError | None, called: Called) -> str:
    """Of a load that failed, or was cancelled, and what can be done then."""
    what = "The load was cancelled." if error is None else str(error)
    ways = (f"{name} {does}" for i, does in _WAYS if (name := called.label(i)))
    return f"{what}\n{', '.join(ways)}."
