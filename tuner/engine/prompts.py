"""What a model is sent: a conversation as text by its template, and as tokens of its vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuner.engine import protocol
from tuner.engine.beside import Turns
from tuner.engine.kept import shared
from tuner.engine.llama import NativeModel
from tuner.engine.protocol import Message
from tuner.engine.reasoning import Splitter
from tuner.engine.reasoning_marks import marks_of
from tuner.engine.special_tokens import KEYS
from tuner.engine.spelled_tokens import SpelledTokens, joined
from tuner.engine.templates import CHATML_STOPS, ChatTemplate, Rendered
from tuner.engine.thinking import taken_as
from tuner.model.chat_templates import CHATML, TemplateChoice, chosen, named_templates

NO_DIFFERENCE = (
    "the chat template has another prompt for thinking {level}, but not for this conversation: a "
    "system prompt may take its place"
)


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A prompt as its model is sent it. `rendered`: of messages whose spelled tokens were split."""

    rendered: Rendered
    tokens: list[int]
    said: str = ""  # after it: what the model has said of its answer already


class Prompts:
    """The prompts of one model, whose weights need not be loaded."""

    def __init__(self, model: NativeModel, choice: TemplateChoice, stopped: Callable[[], object]):
        """Tries the template out; see `ChatTemplate` for `stopped`."""
        self._model = model
        keys = model.metadata_keys()
        named = named_templates({key: model.metadata(key) for key in keys if "template" in key})
        tokens = {name: model.token_text(model.special.get(name, -1)) for name in KEYS}
        source = chosen(named, choice)
        self.template = ChatTemplate(source, tokens, stopped)
        added = tuple(model.added_tokens())
        self.marks = marks_of(source or "", {text: control for _, text, control in added})
        # Control tokens have no bytes: by these the splitter hears of them.
        self.mark_tokens = {n: text for n, text, c in added if c and text in self.marks.found}
        formats = (source or "") + "".join(CHATML_STOPS)
        self._spelled = SpelledTokens(((text, special) for _, text, special in added), formats)
        # Whoever asked for ChatML need not hear of it.
        self.warnings = () if choice.name == CHATML else self.template.warnings
        self._told = self.template.warnings
        self._said: set[str] = set()  # of thinking

    def close(self) -> None:
        self.template.close()

    def prompt(
        self, messages: Sequence[Message], *, continue_last: bool = False, think: str = ""
    ) -> TokenizedPrompt:
        """With `continue_last` what the last message says follows the opening of an answer and is
        left open, as it stood when the model was writing it. Raises TemplateStoppedError."""
        messages = self._spelled.split(messages)
        last = messages[-1] if continue_last and messages else None
        if last is None or last.role != "assistant":
            rendered = self.template.render(messages, think=think)
            return TokenizedPrompt(rendered, self._tokens(rendered.text))
        rendered = self.template.render(messages[:-1], think=think)
        said = Splitter(self.marks, rendered.text).resumed(last.reasoning, last.content)
        return TokenizedPrompt(rendered, self._tokens(rendered.text + said), said)

    def start_of_last(self, prompt: TokenizedPrompt, messages: Sequence[Message]) -> int:
        """After how many of its tokens what was asked last begins; 0 where that is not seen."""
        said, text = self._spelled.split(messages), prompt.rendered.text
        asked = [message.content for message in said if message.role == "user"]
        at = text.rfind(asked[-1].strip()) if asked else -1
        return shared(self._tokens(text[:at]), prompt.tokens) if at > 0 else 0

    def turns(self, prompt: TokenizedPrompt, messages: Sequence[Message]) -> Turns:
        """Where the turns are in it that stay after others were let go: from the first question on,
        with which a summary may stand, to the one before the last answer at least, which is given
        without what was thought. Where that is not seen, nothing is."""
        said, text = self._spelled.split(messages), prompt.rendered.text + prompt.said
        asked = [message.content.strip() for message in said[:-1] if message.role == "user"]
        if not asked:
            return Turns(0, len(prompt.tokens))
        begin = text.find(asked[0])
        last = text.rfind(said[-1].content.strip())
        end = text.rfind(asked[-1], 0, max(0, last))
        if min(begin, end) < 0:
            return Turns(0, len(prompt.tokens))
        begin_by = shared(self._tokens(text[: begin + len(asked[0])]), prompt.tokens)
        return Turns(begin_by, len(prompt.tokens) - len(self._tokens(text[end + len(asked[-1]) :])))

    def splitter(self, prompt: TokenizedPrompt) -> Splitter:
        """Of the answer to a prompt."""
        return Splitter(self.marks, prompt.rendered.text, prompt.said)

    def news(self, prompt: TokenizedPrompt, think: str) -> list[str]:
        """What the user should hear of a prompt: a change of format every time, all else once."""
        news = [prompt.rendered.notice] if prompt.rendered.notice else []
        if self.template.warnings != self._told:  # it took too much, and is not asked again
            self._told = self.template.warnings
            news += self._told
        thinking = self.template.thinking
        taken = taken_as(think, thinking.offered, thinking.usual)
        same = NO_DIFFERENCE.format(level=think) if prompt.rendered.same_thinking else ""
        for word in (taken, same):
            if word and word not in self._said:
                self._said.add(word)
                news.append(word)
        return news

    def shown(self, messages: Sequence[Message], think: str) -> protocol.Prompt:
        """A prompt to be looked at. Raises TemplateStoppedError."""
        prompt = self.prompt(messages, think=think)
        thinking = self.template.thinking
        return protocol.Prompt(
            text=joined(prompt.rendered.text),
            tokens=tuple(prompt.tokens),
            pieces=tuple(map(self._shown, prompt.tokens)),
            chat_template=prompt.rendered.source,
            stops=prompt.rendered.stops,
            think=thinking.offered,
            usual_think=thinking.usual,
            warnings=(*self.warnings, *self.news(prompt, think)),
        )

    def _tokens(self, text: str) -> list[int]:
        """With a BOS in front where the model wants one and the template wrote none."""
        tokens = [
            token
            for piece, parse_special in self._spelled.fragments(text)
            for token in self._model.tokenize(piece, parse_special=parse_special)
        ]
        bos = self._model.bos
        if self._model.adds_bos and bos >= 0 and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens or [max(0, bos)]

    def _shown(self, token: int) -> str:
        """A token's text; of one that is no text, its name. Part of a character becomes U+FFFD."""
        if self._model.is_special(token):
            return self._model.token_text(token)
        return self._model.piece(token).decode("utf-8", "replace")
