"""Two ways to have the same question answered: said in words, and tried without a trace in the
conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tui.answering.conversation import Chat
from tui.storage import Conversation, StoredMessage
from tuner.errors import UsageError
from tuner.memory.cache_types import CACHE_TYPES
from tuner.safe_text import utf8
from tuner.sampling import Sampling, restated
from tuner.settings import Settings

EXAMPLE = "temperature 1.2, top-p 0.9, kv q8_0/q4_0, system: Be brief."

_SYSTEM = re.compile(r"\bsystem\s*:", re.IGNORECASE)
_KV = re.compile(r"\bkv[\s:=]+([^\s,]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Setting:
    """How an answer is asked for. `type_k`, `type_v`: names of `CACHE_TYPES`."""

    sampling: Sampling
    system_prompt: str | None
    type_k: str
    type_v: str

    @property
    def words(self) -> str:
        """What people change most, as `setting_of` reads it."""
        kv = self.type_k if self.type_k == self.type_v else f"{self.type_k}/{self.type_v}"
        drawn = self.sampling
        return f"temperature {drawn.temperature:g}, top-p {drawn.top_p:g}, kv {kv}"

    def loaded(self, settings: Settings) -> Settings:
        """The settings of a load with this cache."""
        return replace(settings, type_k=self.type_k, type_v=self.type_v)


def setting_of(text: str, usual: Setting) -> Setting:
    """The setting of words like `EXAMPLE`: values of the sampling as `restated` has them, types of
    K and V, and to the end of the line what stands for the system prompt, which may be nothing.
    What is not said is as usual. Raises UsageError."""
    said = _SYSTEM.search(text)
    system = usual.system_prompt
    if said:
        text, system = text[: said.start()], utf8(text[said.end() :].strip()) or None
    types = usual.type_k, usual.type_v
    for kv in _KV.findall(text):  # of what is said twice the last counts
        types = _types(kv)
    text = _KV.sub(" ", text).strip(" ,")
    sampling = restated(text, usual.sampling) if text else usual.sampling
    return Setting(sampling, system, *types)


def _types(text: str) -> tuple[str, str]:
    names = text.lower().split("/")
    for name in names:
        if name not in CACHE_TYPES:
            known = ", ".join(CACHE_TYPES)
            raise UsageError(f"'{name}' is not a cache type; kv takes one of {known}.")
    if len(names) > 2:  # noqa: PLR2004 - K and V
        raise UsageError(f"kv takes a type, or one for K and one for V, not '{text}'.")
    return names[0], names[-1]


def path_to_question(
    path: Sequence[StoredMessage], message: StoredMessage | None = None
) -> tuple[StoredMessage, ...]:
    """The path through the last question, or through the one that is, or led to, this message;
    empty: there is none."""
    ids = [each.id for each in path]
    end = ids.index(message.id) + 1 if message is not None else len(path)
    while end and path[end - 1].role != "user":
        end -= 1
    return tuple(path[:end])


def trial(conversation: Conversation, path: Sequence[StoredMessage], setting: Setting) -> Chat:
    """A conversation up to a question, to be answered with the setting's system prompt: a copy,
    which the real one knows nothing of."""
    return Chat(None, replace(conversation, system_prompt=setting.system_prompt, head=None), path)


def with_system_prompt(answer: StoredMessage, setting: Setting) -> StoredMessage:
    """An answer whose settings say by which system prompt it came: not by the conversation's."""
    stated = json.loads(answer.settings or "{}")
    return replace(
        answer, settings=json.dumps({**stated, "system_prompt": setting.system_prompt or ""})
    )
