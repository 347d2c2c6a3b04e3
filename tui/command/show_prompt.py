"""`kvchat MODEL --show-prompt`: what the model would be sent, to settle doubts about a template.

The model's header is enough: neither its weights nor the memory for them are needed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tui.command.output import tell, write
from tuner.engine.client import EngineClient
from tuner.engine.protocol import Message, Prompt, ShowPrompt
from tuner.errors import ExitCode, UsageError
from tuner.profiles.profiles import Profiles
from tuner.safe_text import utf8
from tuner.wishes import LaunchRequest

# Two turns, where nothing is asked: they show how a model sees its own answers too.
SAMPLE = (
    Message("user", "Hello!"),
    Message("assistant", "Hello! How can I help you?"),
    Message("user", "What can you do?"),
)


def show_prompt(
    request: LaunchRequest, messages: Sequence[Message], *, as_json: bool = False
) -> int:
    """The prompt on stdout, as it is in a pipe, or as JSON with its tokens. Raises EngineError."""
    think = request.think or _remembered_think(request)
    asked = ShowPrompt(str(request.path), tuple(messages), think, request.chat_template)
    with EngineClient() as client:
        prompt = client.show_prompt(asked)
    if as_json:
        write(json.dumps(prompt_json(prompt)) + "\n")
        return ExitCode.OK
    write(prompt.text + ("\n" if sys.stdout.isatty() else ""))
    for warning in prompt.warnings:
        tell(warning)
    return ExitCode.OK


def _remembered_think(request: LaunchRequest) -> str:
    """The level of thinking that a chat with this model would begin with."""
    if request.model is None or not request.use_profile or request.stated:
        return ""
    profile = Profiles().load(request.model.fingerprint)
    return profile.think if profile else ""


def prompt_json(prompt: Prompt) -> dict[str, Any]:
    """A prompt with its tokens, each with its text; part of a character is U+FFFD there."""
    body = asdict(prompt)
    tokens = zip(body.pop("tokens"), body.pop("pieces"), strict=True)
    return {
        "prompt": body.pop("text"),
        "n_tokens": len(prompt.tokens),
        "tokens": [{"id": token, "text": text} for token, text in tokens],
        **body,
    }


def conversation(
    prompt: str | None, system: str | None, resumed: Sequence[Message] = ()
) -> tuple[Message, ...]:
    """What is said: the conversation that is gone on with, the question, or both; a sample where
    there is neither. `system` takes the place of the conversation's own."""
    messages = list(resumed)
    if system is not None:
        messages = [m for m in messages if m.role != "system"]
        if system:
            messages.insert(0, Message("system", system))
    if prompt is not None:
        messages.append(Message("user", prompt))
    elif not any(m.role == "user" for m in messages):
        messages += SAMPLE
    return tuple(messages)


def resumed(conversation_id: str) -> tuple[Message, ...]:
    """A saved conversation as its model sees it. Raises UsageError, StoreError."""
    from tui.answering import Chat  # noqa: PLC0415
    from tui.storage import Conversations  # noqa: PLC0415

    store = Conversations.open(None)
    found = store.get(utf8(conversation_id))
    if found is None:
        raise UsageError(f"There is no saved conversation {conversation_id!r}.")
    return Chat(None, found, store.messages(found.id)).prompt()
