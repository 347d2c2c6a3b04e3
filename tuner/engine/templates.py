"""A conversation as the text that a model was trained on: the file's own Jinja template, or
ChatML where it has none. Never raises for what a template does: what it rejects is said in another
way, and one that takes too much is not asked again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tuner.engine import template_process
from tuner.engine.protocol import Message
from tuner.engine.template_process import Call, TemplateError, TemplateProcess, UnusableError
from tuner.engine.template_ways import Failure, Way, choose, merge_turns, other_ways
from tuner.engine.thinking import Thinking, Variables, discover

CHATML_STOPS = ("<|im_end|>", "<|im_start|>")

NO_TEMPLATE = (
    "the file has no chat template, so ChatML is used: a model that was not trained for chat "
    "may ramble"
)
BAD_TEMPLATE = "the chat template does not work ({reason}), so ChatML is used"
FAILS_ON = (
    "the chat template fails on {what} ({reason}): there ChatML is used, which the model "
    "may not know"
)
LEAVES_OUT = "the chat template is incomplete: with {what}, {reason}"
FELL_BACK = (
    "the chat template rejects this conversation ({reason}): it was sent as ChatML, which "
    "the model may not know"
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """The prompt, and the texts that end an answer beside the model's own end tokens."""

    text: str
    stops: tuple[str, ...] = ()
    source: str = "file"  # the format: "file" | "chatml"
    notice: str = ""  # what the user should know of it
    same_thinking: bool = False  # the level of thinking makes no difference to this conversation


class ChatTemplate:
    """One model's template. `source` is "file" or "chatml", `warnings` say why not the file's or
    what it cannot say, `thinking` is what it lets one choose. All that is found out at the load;
    a rendering that teaches otherwise says so."""

    def __init__(
        self,
        template: str | None,
        tokens: Mapping[str, str],
        stopped: Callable[[], object] = lambda: False,
    ):
        """Tries it out. `tokens`: variables of every rendering, "bos_token" and its like.
        `stopped`: looked at while a template runs; raises TemplateStoppedError, then, as `render`
        does."""
        self._own: TemplateProcess | None = None
        self._tokens = tokens
        self._now = time.time()
        self._way = Way()
        self.thinking = Thinking()
        self.warnings: tuple[str, ...] = ()
        if not template or not template.strip():
            self.warnings = (NO_TEMPLATE,)
            return
        try:
            self._own = TemplateProcess(template, stopped)
            self._try_out(template)
        except (TemplateError, UnusableError) as error:
            self._give_up(str(error))

    @property
    def source(self) -> str:
        return "file" if self._own is not None else "chatml"

    def close(self) -> None:
        if self._own is not None:
            self._own.close()

    def render(self, messages: Sequence[Message], *, think: str = "") -> Rendered:
        """The prompt of a conversation, ready for the assistant's next words. `think`: a level of
        `THINK_LEVELS`, "" for what the template does by itself."""
        if not any(m.role == "assistant" for m in messages):
            self._now = time.time()  # the date of a conversation is that of its beginning
        variables = self.thinking.variables(think)
        text, notice = self._said_by_own(messages, variables)
        if text is not None:
            usual = self.thinking.variables(self.thinking.usual)
            same = variables not in ({}, usual) and text == self._said_by_own(messages, {})[0]
            return Rendered(text, same_thinking=same)
        return Rendered(chatml(messages), CHATML_STOPS, "chatml", notice)

    # ------------------------------------------------------------ trying it out

    def _try_out(self, template: str) -> None:
        """Finds the way to call it and what it offers. Raises as the template does."""
        expired = _clock(template_process.COMPILE_SECONDS)
        choice = choose(self._say, expired)
        if not choice.usable:
            raise TemplateError(choice.failures[0].reason)
        self._way = choice.way
        by_reason = {failure.reason: failure for failure in reversed(choice.failures)}
        self.warnings = tuple(map(_told, reversed(by_reason.values())))

        def say(variables: Variables) -> str | None:
            try:
                question = (Message("user", "hello"),)
                return None if expired() else self._say(self._way, question, variables)
            except TemplateError:
                return None

        self.thinking = discover(say, template)

    def _say(
        self, way: Way, messages: Sequence[Message], variables: Variables | None = None
    ) -> str:
        assert self._own is not None
        call: Call = way.call(messages, {**self._tokens, **(variables or {})}, self._now)
        return self._own.render(call)

    # ------------------------------------------------------------ rendering

    def _said_by_own(
        self, messages: Sequence[Message], variables: Variables
    ) -> tuple[str | None, str]:
        """None where the file's template has no way to say it, with what to tell of that, or takes
        too much, which `warnings` tell from then on."""
        if self._own is None:
            return None, ""
        turns = dict.fromkeys((tuple(messages), merge_turns(messages)))
        ways = other_ways(self._way)
        given = (variables, {}) if variables else ({},)
        reason = ""
        expired = _clock(template_process.RENDER_SECONDS)
        for those, said, way in itertools.product(given, turns, ways):
            if expired():
                break
            try:
                return self._say(way, said, those), ""
            except TemplateError as error:
                reason = reason or str(error)
            except UnusableError as error:
                self._give_up(str(error))
                return None, ""
        return None, FELL_BACK.format(reason=reason)

    def _give_up(self, reason: str) -> None:
        """ChatML from now on."""
        self.close()
        self._own = None
        self.thinking = Thinking()
        self.warnings = (BAD_TEMPLATE.format(reason=reason),)


def _clock(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def _told(failure: Failure) -> str:
    """What fails, and what is done about it."""
    form = FAILS_ON if failure.rejected else LEAVES_OUT
    return form.format(what=failure.what, reason=failure.reason)


def chatml(messages: Sequence[Message]) -> str:
    """The form that stands in."""
    turns = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)
    return f"{turns}<|im_start|>assistant\n"
