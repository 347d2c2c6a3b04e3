"""Tells a model's reasoning (`<think>…</think>`) from its answer while the text streams in."""

from __future__ import annotations

from dataclasses import dataclass

_NAMES = ("think", "thinking", "thought", "reasoning")
_OPEN = tuple(f"<{name}>" for name in _NAMES)
_CLOSE = tuple(f"</{name}>" for name in _NAMES)


@dataclass(frozen=True, slots=True)
class Split:
    """Text that is new since the last call. `moved`: all answer text given out so far was
    reasoning after all (a template that opens the block itself sends only the closing tag)."""

    reasoning: str = ""
    answer: str = ""
    moved: bool = False


class ReasoningSplitter:
    """Only a block at the very start of an answer is reasoning: code may speak of <think>."""

    def __init__(self) -> None:
        self.reasoning = ""
        self.answer = ""
        self._held = ""
        self._place = "start"  # "start" | "reasoning" | "answer" (no block seen) | "after" a block

    def feed(self, text: str, final: bool = False) -> Split:
        """Takes the next piece; holds back what may be half a tag, until `final`."""
        text = self._held + text
        self._held = ""
        reasoning, answer, moved = "", "", False
        if self._place == "start":
            begun = text.lstrip()
            tag = next((tag for tag in _OPEN if begun.startswith(tag)), None)
            if tag:
                self._place, text = "reasoning", begun[len(tag) :]
            elif not final and any(tag.startswith(begun) for tag in _OPEN):
                self._held = text
                return Split()
            else:
                self._place = "answer"
        if self._place == "reasoning":
            before, tag, after = _cut(text)
            if tag:
                reasoning, text, self._place = before, after.lstrip("\n"), "after"
            else:
                reasoning, self._held = (text, "") if final else _hold(text)
                text = ""
        elif self._place == "answer":
            before, tag, after = _cut(text)
            # Without an opening tag only a closing tag on a line of its own counts.
            if tag and (self.answer + before).rstrip(" ").endswith("\n"):
                moved, reasoning = True, self.answer + before
                self.answer, text, self._place = "", after.lstrip("\n"), "after"
            elif not final:
                text, self._held = _hold(text)
        answer = text
        if self._place == "after" and not self.answer:
            answer = answer.lstrip("\n")
        if not self.reasoning and not moved:
            reasoning = reasoning.lstrip("\n")
        self.reasoning += reasoning
        self.answer += answer
        return Split(reasoning, answer, moved)


def _cut(text: str) -> tuple[str, str, str]:
    places = [(text.find(tag), tag) for tag in _CLOSE if tag in text]
    if not places:
        return text, "", ""
    at, tag = min(places)
    return text[:at], tag, text[at + len(tag) :]


def _hold(text: str) -> tuple[str, str]:
    """The text, and its end that may be the beginning of a closing tag."""
    at = text.rfind("<")
    if at >= 0 and any(tag.startswith(text[at:]) for tag in _CLOSE):
        return text[:at], text[at:]
    return text, ""
