"""Which of a file's chat templates is the one to chat with.

A file has one without a name, or several by name (Transformers' list of named templates, as
gguf-py writes it: `tokenizer.chat_template.NAME`), or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEY = "tokenizer.chat_template"
DEFAULT = "default"  # the name of the one without a name
CHATML = "chatml"  # no template of the file: the form that stands in where there is none
MAX_TEMPLATE = 1 << 20  # characters, which no real one comes near: the longest have 30,000
_FOR_CHAT = (DEFAULT, "chat")
_FOR_OTHERS = ("tool_use", "rag")  # made for more than a conversation


@dataclass(frozen=True, slots=True)
class TemplateChoice:
    """The template that the user wants: one of the file's by name, `CHATML`, or the text of
    another in `source`. Neither: the one for chat."""

    name: str = ""
    source: str = ""


def named_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The templates of a file's metadata by name; one that is blank is none."""
    named = {
        key.removeprefix(f"{KEY}."): value
        for key, value in metadata.items()
        if key.startswith(f"{KEY}.")
    }
    if KEY in metadata:
        named[DEFAULT] = metadata[KEY]
    return {k: v for k, v in named.items() if isinstance(v, str) and v.strip()}


def for_chat(templates: Mapping[str, str]) -> str | None:
    """The name of the template to chat with; None where there is none. One for tools or documents
    is taken where there is no other: it still has the model's format."""
    names = [name for name in _FOR_CHAT if name in templates]
    names += [name for name in templates if name not in _FOR_OTHERS]
    return next(iter((*names, *templates)), None)


def chosen(templates: Mapping[str, str], choice: TemplateChoice) -> str | None:
    """The text of the template that is to be used; None: ChatML. A name that the file does not
    have is that of nothing."""
    if choice.source:
        return choice.source
    if choice.name:
        return templates.get(choice.name)
    name = for_chat(templates)
    return templates[name] if name is not None else None
