"""The messages between the program and the model process: JSON lines, one object each.

The parent sends requests, the worker answers with events. A request that takes time (`Load`,
`Generate`, `MeasureSpeed`, `MeasureLosses`) ends with exactly one of its final events; `Stop`
cancels it. Requests are numbered, an event carries the number of the request that it answers,
`Stop` that of the one it cancels. Everything that both sides must agree on is here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, get_args

from tuner.json_values import from_json
from tuner.memory.cache_losses import CacheLosses
from tuner.memory.footprint import Buffer
from tuner.model.chat_templates import TemplateChoice
from tuner.sampling import Sampling as Sampling  # noqa: PLC0414 - a part of `Generate`
from tuner.settings import Settings
from tuner.units import MIB


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is "system", "user" or "assistant". `reasoning`: what an
    assistant thought before it said `content`, for templates that show it again."""

    role: str
    content: str
    reasoning: str = ""


# ---------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True)
class Load:
    """Load a model, or with `dry` build everything with `no_alloc`, allocate nothing, report the
    buffers and free it again."""

    path: str
    settings: Settings
    n_threads: int
    rpc_servers: tuple[str, ...] = ()  # "host:port", registered before loading
    left_out: tuple[str, ...] = ()  # the engine's names of devices not to be used
    dry: bool = False
    fingerprint: str = ""  # of the model that was planned for; "": any
    exact_threads: bool = False  # `n_threads` also while other programs need the cores
    other_threads: int = 0  # to be tried beside `n_threads`: the faster is used; 0: none
    kept_bytes: int = 256 * MIB  # of RAM, for checkpoints and the states of other branches
    chat_template: TemplateChoice = field(default_factory=TemplateChoice)
    # Devices whose memory is told as it was before this process had opened them.
    looks_at: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reshape:
    """Make another context on the weights that are loaded, and move what the cache holds into it.
    Only what a context has by itself may differ: n_ctx, types, n_ubatch, flash_attn, swa_full."""

    settings: Settings
    kept_bytes: int
    folder: str = ""  # in which that lies meanwhile where RAM has no room for it; "": nowhere


@dataclass(frozen=True, slots=True)
class SaveState:
    """Write what the cache holds to a file, in place of what is there. `is_memory`: of somebody's
    who holds on to it; it has no other name, and is written as it is."""

    path: str
    most_bytes: int
    is_memory: bool = False


@dataclass(frozen=True, slots=True)
class RestoreState:
    """Fill the cache with what such a file holds."""

    path: str


@dataclass(frozen=True, slots=True)
class ShowPrompt:
    """What a model would be sent; its weights are not read. A model that is loaded stays so."""

    path: str
    messages: tuple[Message, ...]
    think: str = ""
    chat_template: TemplateChoice = field(default_factory=TemplateChoice)


@dataclass(frozen=True, slots=True)
class Generate:
    messages: tuple[Message, ...]
    sampling: Sampling
    continue_last: bool = False  # the last message is an assistant's, to be continued
    think: str = ""  # a level of `THINK_LEVELS`; "": what the template does by itself
    # Turns were let go: those behind may keep what was computed of them, though it knows of these.
    may_move: bool = False
    # What the cache holds behind this prompt is soon asked for again: it stays where there is room.
    rest_returns: bool = False


@dataclass(frozen=True, slots=True)
class CountTokens:
    messages: tuple[Message, ...]
    think: str = ""


@dataclass(frozen=True, slots=True)
class MeasureSpeed:
    """Time the loaded model with all its threads, in an empty cache that arbitrary tokens fill: a
    short prompt first, then up to each of `depths` in turn, where tokens are decoded one by one.
    What was in the cache is forgotten."""

    prompt: int  # tokens of the short prompt
    depths: tuple[int, ...]  # tokens in the cache, ascending
    n_decode: int  # tokens at each depth
    seconds: float  # for all of it; a depth that would take longer is left out


@dataclass(frozen=True, slots=True)
class MeasureLosses:
    """Read a text with the loaded model in caches of their own, one of f16 and beside it others,
    and compare what is predicted after each token."""

    text: str
    n_tokens: int  # of the text that are read; it must have `n_decode` more
    n_decode: int  # tokens that are then decoded one by one, for the speed
    chunk: int  # tokens whose logits are kept at once, of each cache
    side_by_side: int  # caches beside that of f16 that there is memory for
    pairs: tuple[tuple[str, str], ...]  # types of K and V


@dataclass(frozen=True, slots=True)
class AskDevices:
    """Say how much memory is free on these devices, by the engine's names. A model need not be
    loaded."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Cancels whatever runs: a load, a prompt, a generation."""


@dataclass(frozen=True, slots=True)
class Quit:
    pass


State = Reshape | SaveState | RestoreState
Measure = MeasureSpeed | MeasureLosses
Request = Load | ShowPrompt | Generate | CountTokens | AskDevices | Measure | State | Stop | Quit

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of a device as its driver tells them to the process that asks: what that process holds
    itself is not free."""

    name: str  # the engine's
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Alive:
    """A heartbeat, sent by a thread of its own while anything is done."""

    doing: str  # a row of `patience.LIMITS`
    work: float  # CPU seconds and pages read: what stands still where nothing moves


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load or a measurement has come, 0.0 to 1.0."""

    fraction: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """Final event of `Load` and `Reshape`. `buffers` are the engine's real sizes."""

    n_ctx: int
    buffers: tuple[Buffer, ...]
    seconds: float
    chat_template: str  # "file" | "chatml"
    warnings: tuple[str, ...] = ()
    use_extra_bufts: bool = True  # False where the machine cannot run them: worth remembering,
    extra_bufts_died_by: str = ""  # with the signal that it died by
    think: tuple[str, ...] = ()  # the levels of thinking that the template offers
    usual_think: str = ""  # the one that it has by itself, "" where it is none of them
    faster_threads: int = 0  # of the two that were tried; 0: none were, or it could not be told
    n_moved: int = 0  # tokens that were in the cache before a `Reshape`, and still are,
    not_moved: str = ""  # or why they are not
    threads_tried: tuple[Timed, ...] = ()  # what either of them took to decode
    untouched: tuple[DeviceMemory, ...] = ()  # of those that were to be looked at


@dataclass(frozen=True, slots=True)
class DryRunDone:
    """Final event of a dry `Load`: what a load would allocate."""

    buffers: tuple[Buffer, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """Prompt tokens processed so far, of those that are new."""

    done: int
    total: int
    n_reused: int = 0  # tokens that were in the cache already


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the user should know about the answer that begins."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A batch of generated text, never cut inside a character; marks are no part of it."""

    text: str
    n_tokens: int  # tokens in this batch
    thought: bool = False  # what the model thinks, not what it answers


@dataclass(frozen=True, slots=True)
class WasThought:
    """The answer's text so far was a thought: only its end was marked."""


@dataclass(frozen=True, slots=True)
class Done:
    """Final event of `Generate`. Seconds are wall time, but for `decode_cpu_seconds`."""

    reason: str  # "end" | "stopped" | "max_tokens" | "context_full"
    n_prompt: int  # tokens of the whole prompt
    n_reused: int  # of these, already in the cache
    n_decoded: int
    prompt_seconds: float
    decode_seconds: float
    n_ctx_used: int  # tokens in the cache now
    decode_cpu_seconds: float = 0.0  # of all threads while it decoded; 0: not known
    chat_template: str = "file"  # | "chatml": the format of this prompt
    thought_seconds: float = 0.0  # of decode_seconds, those spent on thoughts
    read_again: str = ""  # why more than what is new in the prompt had to be read

    @property
    def n_read(self) -> int:
        """Tokens of the prompt that were computed: fewer than are new where it was stopped."""
        return max(0, min(self.n_prompt, self.n_ctx_used) - self.n_reused)


@dataclass(frozen=True, slots=True)
class TokenCount:
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Timed:
    """Tokens that were computed, and in which time."""

    depth: int  # tokens in the cache before them
    n_tokens: int
    seconds: float  # wall time of all of them; where one by one, as many times the median
    cores: float  # that the engine's threads had in that time, on average; 0: not known
    n_threads: int = 0  # that computed them; 0: as many as the model is loaded with

    @property
    def mean_depth(self) -> int:
        """Tokens in the cache halfway."""
        return self.depth + self.n_tokens // 2

    @property
    def tps(self) -> float:
        """Tokens/s."""
        return self.n_tokens / self.seconds


@dataclass(frozen=True, slots=True)
class SpeedMeasured:
    """Final event of `MeasureSpeed`."""

    prompts: tuple[Timed, ...]  # the short one, then what filled the cache up to each depth
    decodes: tuple[Timed, ...]  # at each depth that there was time and room for
    n_threads: int


@dataclass(frozen=True, slots=True)
class LossesMeasured:
    """Final event of `MeasureLosses`: f16 and the pairs, in the order asked for."""

    losses: CacheLosses


@dataclass(frozen=True, slots=True)
class DevicesAsked:
    """Final event of `AskDevices`: those of the devices that there are, and that answer."""

    memory: tuple[DeviceMemory, ...]


@dataclass(frozen=True, slots=True)
class StateSaved:
    """Final event of `SaveState`. No tokens: nothing was written, and `why`."""

    n_tokens: int
    n_bytes: int
    seconds: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class StateRestored:
    """Final event of `RestoreState`. No tokens: the cache is as it was, and `why`."""

    n_tokens: int
    seconds: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Final event of `ShowPrompt`."""

    text: str
    tokens: tuple[int, ...]  # with the BOS that the model wants in front
    pieces: tuple[str, ...]  # the text of each
    chat_template: str  # "file" | "chatml"
    stops: tuple[str, ...] = ()  # texts that end an answer beside the model's own end tokens
    think: tuple[str, ...] = ()  # as in `Loaded`
    usual_think: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """Final event of any request that could not be done. `kind` as in EngineError, or "usage"."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Final event of a `Load` or a measurement that was stopped."""


AnswerEvent = PromptProgress | Notice | Text | WasThought | Done  # of `Generate`
Counted = TokenCount | DevicesAsked
Measured = SpeedMeasured | LossesMeasured
Moved = StateSaved | StateRestored
Final = Loaded | DryRunDone | Done | Counted | Measured | Moved | Prompt | Failed | Cancelled
Event = Alive | Progress | PromptProgress | Notice | Text | WasThought | Final


_MESSAGES: dict[str, type] = {t.__name__: t for t in (*get_args(Request), *get_args(Event))}


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))


def _members(part: Any) -> dict[str, Any]:
    """A dataclass' values as they are: `asdict` would copy each, in ten times the time."""
    return {name: getattr(part, name) for name in _names(part.__class__)}


_JSON = json.JSONEncoder(ensure_ascii=False, default=_members)


class ProtocolError(ValueError):
    """A line that is no message."""


def encode(message: Request | Event, number: int = 0) -> bytes:
    """One JSON object on one line, UTF-8; halves of surrogate pairs, as a path that is no UTF-8
    has them, as JSON's escapes. `number`: of the request."""
    body = {"type": type(message).__name__, "n": number, **_members(message)}
    return _JSON.encode(body).encode("utf-8", "backslashreplace") + b"\n"


def decode(line: bytes) -> tuple[int, Any]:
    """The number and the message of one line. Raises ProtocolError on anything else."""
    try:
        body = json.loads(line)
        number = body.get("n", 0)
        if type(number) is not int:
            raise ValueError("the number is none")
        return number, from_json(_MESSAGES[body["type"]], body, bounded=False)
    # RecursionError: brackets by the thousand. MemoryError: a number of a million digits.
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise ProtocolError(f"not a message: {line[:80]!r}") from error
