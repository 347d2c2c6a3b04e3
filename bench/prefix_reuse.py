"""How much of a conversation is read again, turn by turn.

    python -m bench.prefix_reuse [MODEL.gguf ...]

Asks the same turns of each model: five questions whose answers are given back as they were, three
whose answers leave out a thought, the last one again, the first one in other words, both
conversations in turn; then the oldest turns are let go, and a summary takes the place of others.
Without a MODEL four of them: the demo model, whose cache can be cut anywhere, and tiny ones with
random weights, with a sliding window, with a state, and with both a cache and a state. Prints for
each turn the tokens of its prompt, those that are new in it, and those
that were read; at the end all that were read, against all that are new, and against reading every
prompt whole.
The exit status is 1 where more than 24 tokens too many were read in a turn.

What is new: what no earlier prompt and its answer begin with. An answer is taken to be the tokens
that were decoded. Of turns that stay where others go nothing is new but what takes their place: a
cache with a window or a state cannot move them and reads them again, and what is to be summarised
with them, which is counted by itself where it is said.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.tiny_models import hybrid, model, recurrent, windowed
from tuner.demo import demo_model_path
from tuner.engine.client import EngineClient
from tuner.engine.kept import shared
from tuner.engine.protocol import Done, Generate, Load, Message, Sampling, ShowPrompt, Text
from tuner.settings import Settings
from tuner.units import GIB

MOST = 24  # tokens too many: how an answer is opened, and where a text is cut into tokens otherwise

N_QUESTIONS, N_PLAIN = 8, 5  # in all, and those before the first thought
N_ANSWER, N_THOUGHT = 24, 96
QUESTION = "Question {n}: what do you make of the following, in a few words? {text}"
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. "


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt. `thinks`: most of what is answered is a thought, and given back to nobody."""

    name: str
    messages: tuple[Message, ...]
    thinks: bool = False
    new: str | None = None  # turns were let go, and this alone is new, in their place
    returns: bool = False  # what was read behind this is asked for again


@dataclass(frozen=True, slots=True)
class Read:
    """Tokens of one prompt."""

    name: str
    n_prompt: int
    n_new: int
    n_read: int
    why: str
    excused: bool = False  # the engine cannot do better


class Conversation:
    """One model, and what it was asked before."""

    def __init__(self, client: EngineClient, path: Path) -> None:
        self._client, self._path = client, path
        self._asked: list[tuple[tuple[int, ...], int]] = []  # prompts, and tokens of their answers
        self._said: dict[tuple[Message, ...], str] = {}

    def turns(self) -> Iterator[Read]:
        talk: tuple[Message, ...] = ()
        for n in range(N_QUESTIONS):
            talk = (*talk, Message("user", QUESTION.format(n=n, text=TEXT * 3)))
            thinks = n >= N_PLAIN
            yield self._ask(Turn("a thought" if thinks else "a question", talk, thinks))
            talk = (*talk, Message("assistant", "A fox." if thinks else self._said[talk]))
        *_, last, _ = range(len(talk))
        yield self._ask(Turn("the last again", talk[: last + 1]))
        first = Message("user", QUESTION.format(n="A", text=TEXT * 3))
        other = (first, *talk[1:])
        yield self._ask(Turn("the first edited", (first,)))
        other = (first, Message("assistant", self._said[(first,)]), *talk[2:3])
        yield self._ask(Turn("and gone on", other))
        for _ in range(2):
            yield self._ask(Turn("back", talk[: last + 1]))
            yield self._ask(Turn("and forth", other))
        yield self._ask(Turn("back", talk[: last + 1]))
        yield self._ask(Turn("turns let go", talk[4 : last + 1], new=""))
        wish = Message("user", "Please summarise our conversation so far.")
        yield self._ask(Turn("a summary asked", (*talk[4:8], wish), returns=True))
        summary = f"[In short: {TEXT * 3}]\n\n"
        first = Message("user", summary + talk[8].content)
        yield self._ask(Turn("and what stays", (first, *talk[9 : last + 1]), new=summary))

    def _ask(self, turn: Turn) -> Read:
        tokens = self._tokens(turn.messages)
        n_tokens = N_THOUGHT if turn.thinks else N_ANSWER
        request = Generate(
            turn.messages,
            Sampling(temperature=0, max_tokens=n_tokens),
            may_move=turn.new is not None,
            rest_returns=turn.returns,
        )
        said = ""
        for event in self._client.generate(request):
            if isinstance(event, Text):
                said += event.text
            elif isinstance(event, Done):
                done = event
        known = max((self._known(tokens, *before) for before in self._asked), default=0)
        n_new = max(1, len(tokens) - known if turn.new is None else self._n_tokens(turn.new))
        self._asked.append((tokens, done.n_decoded))
        self._said[turn.messages] = said
        n_read, moves = done.n_prompt - done.n_reused, turn.new is not None
        excused = (moves or turn.returns) and bool(done.read_again)
        return Read(turn.name, done.n_prompt, n_new, n_read, done.read_again, excused)

    def _n_tokens(self, text: str) -> int:
        with_it, without = (self._tokens((Message("user", words),)) for words in (text, ""))
        return len(with_it) - len(without)

    @staticmethod
    def _known(tokens: tuple[int, ...], before: tuple[int, ...], n_answer: int) -> int:
        same = shared(before, tokens)
        return min(same + (n_answer if same == len(before) else 0), len(tokens))

    def _tokens(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        return self._client.show_prompt(ShowPrompt(str(self._path), messages)).tokens


def measured(name: str, path: Path, folder: Path) -> bool:
    """Prints what one model reads; whether that is hardly more than what is new."""
    settings = Settings(n_ctx=4096, n_ubatch=128, use_extra_bufts=False)
    print(f"{name}\n    {'':18}{'prompt':>8}{'new':>8}{'read':>8}")
    reads = []
    with EngineClient(folder / "engine.log") as client:
        list(client.load(replace(Load(str(path), settings, 2), kept_bytes=GIB)))
        for read in Conversation(client, path).turns():
            reads.append(read)
            print(
                f"    {read.name:18}{read.n_prompt:8,}{read.n_new:8,}{read.n_read:8,}  {read.why}"
            )
    counted = [read for read in reads if not read.excused]
    whole, new, total = (
        sum(getattr(read, key) for read in counted) for key in ("n_prompt", "n_new", "n_read")
    )
    most = max(read.n_read - read.n_new for read in counted)
    print(
        f"    {'all':18}{whole:8,}{new:8,}{total:8,}  {total / new:.2f} of what is new, "
        f"{total / whole:.2f} of reading all; at most {most} too many"
    )
    if more := sum(read.n_read - read.n_new for read in reads if read.excused):
        print(f"    and where the engine cannot do better {more:,} too many")
    print(flush=True)
    return most <= MOST


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("models", nargs="*", type=Path)
    asked: list[Path] = parser.parse_args().models
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [(path.name, path) for path in asked] or [
            ("dense (SmolLM2-135M)", demo_model_path()),
            *(
                (kind.__name__, model(folder / f"{kind.__name__}.gguf", kind))
                for kind in (windowed, recurrent, hybrid)
            ),
        ]
        good = [measured(name, path, folder) for name, path in models]
        return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
